//! `INFO`: the node in sections, with Redis's fields where they mean the same here.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::connection::{REDIS_VERSION, role_name};
use super::table::TABLE;
use crate::cluster::state::{NodeState, SyncPhase};
use crate::config::units::human;
use crate::metrics::process;
use crate::node::{Node, now_ms};
use crate::pubsub::Kind;
use crate::server::registry::{Client, flag};
use crate::store::{STEP_BOUNDS_US, STEPS};

type Section = fn(&Node, u64, &mut Fields);

/// Sections by name; whether they are shown unasked.
const SECTIONS: [(&str, Section, bool); 13] = [
    ("Server", server, true),
    ("Clients", clients, true),
    ("Memory", memory, true),
    ("Persistence", persistence, true),
    ("Stats", stats, true),
    ("Steps", steps, true),
    ("Replication", replication, true),
    ("CPU", cpu, true),
    ("Commandstats", commandstats, false),
    ("Errorstats", errorstats, true),
    ("Cluster", cluster, true),
    ("Keyspace", keyspace, true),
    ("Regions", regions, true),
];

#[derive(Debug, Default)]
struct Fields(String);

impl Fields {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{name}:{value}\r\n");
    }
}

/// The text of the sections asked for, in lower case; none: the usual ones.
/// `keys`: how many this node shows.
pub fn info(node: &Node, asked: &[String], keys: u64) -> String {
    let has = |name: &str| asked.iter().any(|a| a == name);
    let every = has("all") || has("everything");
    let usual = asked.is_empty() || has("default");
    let mut fields = Fields::default();
    for (name, write, default) in SECTIONS {
        if every || (usual && default) || has(&name.to_lowercase()) {
            if !fields.0.is_empty() {
                fields.0.push_str("\r\n");
            }
            let _ = write!(fields.0, "# {name}\r\n");
            write(node, keys, &mut fields);
        }
    }
    fields.0
}

fn server(node: &Node, _: u64, f: &mut Fields) {
    let uptime_s = now_ms().saturating_sub(node.started_at_ms) / 1000;
    f.add("redis_version", REDIS_VERSION);
    f.add("cache_node_version", env!("CARGO_PKG_VERSION"));
    f.add(
        "redis_mode",
        if node.is_cluster() {
            "cluster"
        } else {
            "standalone"
        },
    );
    f.add("os", std::env::consts::OS);
    f.add("arch_bits", usize::BITS);
    f.add("multiplexing_api", "epoll");
    f.add("process_id", std::process::id());
    f.add("run_id", &node.run_id);
    f.add("tcp_port", node.port());
    f.add("server_time_usec", crate::node::now_us());
    f.add("uptime_in_seconds", uptime_s);
    f.add("uptime_in_days", uptime_s / 86_400);
    f.add("io_threads_active", node.config.threads());
    f.add("config_file", "");
}

fn clients(node: &Node, _: u64, f: &mut Fields) {
    let all = node.clients.all();
    let waiting = all.iter().filter(|c| c.has(flag::PARKED)).count();
    f.add("connected_clients", all.len());
    f.add(
        "maxclients",
        node.settings.max_clients.load(Ordering::Relaxed),
    );
    f.add("tracking_clients", node.store.tracking.counts()[0]);
    f.add("blocked_clients", waiting + node.blocked.count());
}

fn memory(node: &Node, _: u64, f: &mut Fields) {
    let store = node.store.stats();
    let live = node.store.live_page_bytes();
    let rss = process::resident_bytes();
    let ratio = rss as f64 / store.bytes.max(1) as f64;
    f.add("used_memory", store.bytes);
    f.add("used_memory_human", human(store.bytes));
    f.add("used_memory_rss", rss);
    f.add("used_memory_rss_human", human(rss));
    f.add("mem_fragmentation_ratio", format_args!("{ratio:.2}"));
    f.add(
        "used_memory_dataset",
        (live + store.span_bytes).saturating_sub(store.table_bytes),
    );
    f.add("used_memory_pages", store.page_bytes);
    f.add("used_memory_pages_live", live);
    f.add("used_memory_large_values", store.span_bytes);
    f.add("used_memory_tables", store.table_bytes);
    f.add("used_memory_other", store.other_bytes);
    f.add("used_memory_log_backlog", node.log.backlog_bytes());
    f.add("used_memory_eviction_queues", store.policy_bytes);
    f.add("used_memory_clients", client_bytes(node));
    let scripts = &node.scripting.scripts;
    let (number, bytes) = scripts.size();
    f.add(
        "used_memory_vm_eval",
        scripts.states_bytes.load(Ordering::Relaxed),
    );
    f.add(
        "used_memory_lua",
        scripts.states_bytes.load(Ordering::Relaxed),
    );
    f.add("used_memory_scripts_eval", bytes);
    f.add("number_of_cached_scripts", number);
    f.add("compaction_moved_bytes", store.moved_bytes);
    let packed = crate::store::compress::stats();
    f.add("compression", node.store.compression.setting().method);
    f.add("compressed_values", packed.packed);
    f.add("compressed_bytes_before", packed.plain_bytes);
    f.add("compressed_bytes_after", packed.packed_bytes);
    f.add(
        "compression_ratio",
        format_args!(
            "{:.2}",
            packed.plain_bytes.max(1) as f64 / packed.packed_bytes.max(1) as f64
        ),
    );
    f.add("compression_left_plain", packed.left);
    f.add("compression_us", packed.pack_ns / 1000);
    f.add("decompressed_values", packed.unpacked);
    f.add("decompressed_bytes", packed.unpacked_bytes);
    f.add("decompression_us", packed.unpack_ns / 1000);
    f.add("lazyfree_pending_objects", store.freeing);
    f.add("lazyfreed_objects", store.freed);
    f.add("maxmemory", store.max_bytes);
    f.add("maxmemory_human", human(store.max_bytes));
    f.add("maxmemory_policy", node.store.policy().name());
}

/// Bytes that connections hold back: received and not executed, and not sent.
fn client_bytes(node: &Node) -> u64 {
    let held =
        |c: &Client| c.input_bytes.load(Ordering::Relaxed) + c.output_bytes.load(Ordering::Relaxed);
    node.clients.all().iter().map(|c| held(c)).sum()
}

/// How long the store's own work held locks, in microseconds of processor time.
fn steps(node: &Node, _: u64, f: &mut Fields) {
    for (step, name) in STEPS {
        let counts = node.store.steps(step);
        let mut text = String::new();
        let bounds = STEP_BOUNDS_US.iter().map(|bound| format!("le_{bound}"));
        for (bound, count) in bounds.chain(["beyond".into()]).zip(counts.counts) {
            let _ = write!(text, "{bound}={count},");
        }
        let (total, max) = (counts.total_us, counts.max_us);
        f.add(
            &format!("step_{name}_us"),
            format_args!("{text}sum={total},max={max}"),
        );
    }
}

fn persistence(_: &Node, _: u64, f: &mut Fields) {
    // Data is in memory; there is nothing to load.
    f.add("loading", 0);
    f.add("aof_enabled", 0);
}

fn stats(node: &Node, _: u64, f: &mut Fields) {
    let s = &node.stats;
    let (input, output) = (s.sum(|t| &t.input_bytes), s.sum(|t| &t.output_bytes));
    f.add(
        "total_connections_received",
        s.connections.load(Ordering::Relaxed),
    );
    f.add("total_commands_processed", s.commands());
    f.add("total_net_input_bytes", input);
    f.add("total_net_output_bytes", output);
    f.add(
        "instantaneous_ops_per_sec",
        s.commands_per_second.load(Ordering::Relaxed),
    );
    f.add(
        "rejected_connections",
        s.rejected_connections.load(Ordering::Relaxed),
    );
    f.add("expired_keys", node.store.stats().expired);
    f.add("evicted_keys", node.store.stats().evicted);
    f.add("expire_lag_ms", node.store.stats().expire_lag_ms);
    f.add("keyspace_hits", s.sum(|t| &t.hits));
    f.add("keyspace_misses", s.sum(|t| &t.misses));
    let [_, keys, items, prefixes] = node.store.tracking.counts();
    f.add(
        "pubsub_channels",
        node.pubsub.active(Kind::Channel, None).len(),
    );
    f.add("pubsub_patterns", node.pubsub.patterns());
    f.add(
        "pubsubshard_channels",
        node.pubsub.active(Kind::Shard, None).len(),
    );
    f.add(
        "pubsub_lost_between_nodes",
        node.cluster.bus.lost.load(Ordering::Relaxed),
    );
    f.add("tracking_total_keys", keys);
    f.add("tracking_total_items", items);
    f.add("tracking_total_prefixes", prefixes);
    f.add("total_error_replies", s.sum(|t| &t.errors));
    f.add("unexpected_error_replies", 0);
    f.add(
        "client_output_buffer_limit_disconnections",
        s.sum(|t| &t.output_closed),
    );
}

/// How a replica stands to its primary, in `ROLE`'s words.
pub fn link(state: &NodeState) -> &'static str {
    match state.sync.state {
        SyncPhase::None | SyncPhase::Connecting => "connect",
        SyncPhase::Full => "sync",
        SyncPhase::Streaming => "connected",
    }
}

fn replication(node: &Node, _: u64, f: &mut Fields) {
    let state = node.cluster.state();
    let routing = node.cluster.routing();
    let address = |member: &str| {
        let node = routing.nodes().find(|(_, n, _)| n.member == member);
        node.map_or((member.to_owned(), 0), |(_, n, _)| (n.host.clone(), n.port))
    };
    f.add("role", role_name(state.role));
    if state.role.follows() {
        let (host, port) = address(&state.sync.primary);
        let up = state.sync.state == SyncPhase::Streaming;
        f.add("master_host", host);
        f.add("master_port", port);
        f.add("master_link_status", if up { "up" } else { "down" });
        f.add(
            "master_sync_in_progress",
            u8::from(state.sync.state == SyncPhase::Full),
        );
        f.add("slave_read_repl_offset", state.offset);
        f.add("slave_repl_offset", state.offset);
        f.add("slave_read_only", 1);
    }
    f.add("connected_slaves", state.replicas.len());
    for (i, replica) in state.replicas.iter().enumerate() {
        let (host, port) = address(&replica.member);
        let phase = if replica.synced {
            "online"
        } else {
            "send_bulk"
        };
        f.add(
            &format!("slave{i}"),
            format_args!(
                "ip={host},port={port},state={phase},offset={}",
                replica.offset
            ),
        );
    }
    f.add("master_replid", format_args!("{:040x}", state.log_epoch));
    f.add("master_repl_offset", state.offset);
    f.add("repl_backlog_active", u8::from(node.log.is_active()));
    f.add("repl_backlog_histlen", node.log.backlog_bytes());
}

fn cpu(_: &Node, _: u64, f: &mut Fields) {
    let (user, system) = process::cpu_seconds();
    f.add("used_cpu_sys", format_args!("{system:.6}"));
    f.add("used_cpu_user", format_args!("{user:.6}"));
}

fn commandstats(node: &Node, _: u64, f: &mut Fields) {
    for entry in &TABLE.entries {
        let calls = node.stats.sum(|t| &t.commands[entry.index]);
        let failed = node.stats.sum(|t| &t.failed_commands[entry.index]);
        let rejected = node.stats.sum(|t| &t.rejected_commands[entry.index]);
        if calls > 0 {
            // Counted with the others as well, by threads that go on while this reads.
            let (executed, failed) = (
                calls.saturating_sub(rejected),
                failed.saturating_sub(rejected),
            );
            f.add(
                &format!("cmdstat_{}", entry.full_name),
                format_args!("calls={executed},rejected_calls={rejected},failed_calls={failed}"),
            );
        }
    }
}

fn errorstats(node: &Node, _: u64, f: &mut Fields) {
    let safe = |c: char| match c {
        '#' | ':' | '\n' | '\r' => '_',
        c => c,
    };
    for (code, count) in node.stats.error_codes() {
        let code: String = code.chars().map(safe).collect();
        f.add(&format!("errorstat_{code}"), format_args!("count={count}"));
    }
}

fn cluster(node: &Node, _: u64, f: &mut Fields) {
    f.add("cluster_enabled", u8::from(node.is_cluster()));
    if node.is_cluster() {
        let state = node.cluster.state();
        f.add("cluster_id", &state.cluster_id);
        f.add("cluster_epoch", state.epoch);
        f.add("member", &state.member);
        f.add("shard", &state.shard);
        f.add("data_id", &state.data_id);
        f.add("serving", u8::from(state.serving));
        f.add("waiting_for", &state.waiting_for);
    }
}

fn keyspace(node: &Node, keys: u64, f: &mut Fields) {
    if keys > 0 {
        let expires = node.store.stats().expires.min(keys);
        f.add(
            "db0",
            format_args!("keys={keys},expires={expires},avg_ttl=0"),
        );
    }
}

fn regions(node: &Node, _: u64, f: &mut Fields) {
    for region in node.store.region_stats() {
        let prefix = String::from_utf8_lossy(&region.prefix)
            .escape_debug()
            .to_string();
        let (keys, bytes, limit, items) =
            (region.keys, region.bytes, region.limit, region.max_items);
        let (hits, misses, evicted) = (region.hits, region.misses, region.evicted);
        f.add(
            &format!("region_{}", region.name),
            format_args!(
                "keys={keys},bytes={bytes},maxbytes={limit},maxitems={items},policy={},compression={},hits={hits},misses={misses},evicted_keys={},evicted_bytes={},prefix={prefix}",
                region.policy.name(),
                region.compression.method,
                evicted.items,
                evicted.bytes,
            ),
        );
    }
}
