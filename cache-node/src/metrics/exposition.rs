//! The metrics in Prometheus's text format. Their names are stable; docs/metrics.md describes them.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use super::process;
use super::stats::{BATCH_BOUNDS_US, Counter, ThreadStats};
use crate::command::table::TABLE;
use crate::node::{Node, now_ms};
use crate::store::{RegionStats, STEP_BOUNDS_US, STEPS};

/// A name with its type and help, followed by its samples.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(
                self.0,
                "{}{label}=\"{text}\"",
                if i == 0 { '{' } else { ',' }
            );
        }
        let _ = writeln!(
            self.0,
            "{} {value}",
            if labels.is_empty() { "" } else { "}" }
        );
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn labelled<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        self.family(name, kind, help);
        for (value, number) in samples {
            self.sample(name, &[(label, value)], number);
        }
    }
}

/// All metrics of a node.
pub fn text(node: &Node) -> String {
    let mut t = Text(String::with_capacity(16 * 1024));
    process_metrics(node, &mut t);
    commands(node, &mut t);
    data(node, &mut t);
    compression(&mut t);
    regions(node, &mut t);
    connections(node, &mut t);
    replication(node, &mut t);
    t.0
}

fn process_metrics(node: &Node, t: &mut Text) {
    t.family(
        "cache_node_info",
        "gauge",
        "Version and member of the node; always 1.",
    );
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("member", node.config.member()),
    ];
    t.sample("cache_node_info", &labels, 1);
    let uptime_s = now_ms().saturating_sub(node.started_at_ms) as f64 / 1000.0;
    t.gauge(
        "cache_node_uptime_seconds",
        "Time since the start.",
        uptime_s,
    );
    let (user, system) = process::cpu_seconds();
    let cpu = [("user", user), ("system", system)];
    t.labelled(
        "cache_node_cpu_seconds_total",
        "counter",
        "Processor time used.",
        "mode",
        cpu,
    );
    t.gauge(
        "cache_node_open_files",
        "Open file descriptors.",
        process::open_files(),
    );
    t.gauge(
        "cache_node_threads",
        "Server threads.",
        node.config.threads(),
    );
}

fn compression(t: &mut Text) {
    let stats = crate::store::compress::stats();
    let seconds = |ns: u64| ns as f64 / 1e9;
    t.counter(
        "cache_node_compressed_values_total",
        "Strings that were compressed to be stored.",
        stats.packed,
    );
    t.counter(
        "cache_node_compressed_plain_bytes_total",
        "Their bytes before.",
        stats.plain_bytes,
    );
    t.counter(
        "cache_node_compressed_stored_bytes_total",
        "Their bytes after.",
        stats.packed_bytes,
    );
    t.counter(
        "cache_node_compression_left_total",
        "Strings that did not become an eighth shorter and stayed as they were.",
        stats.left,
    );
    t.counter(
        "cache_node_compression_seconds_total",
        "Time spent on compressing, also those that stayed.",
        seconds(stats.pack_ns),
    );
    t.counter(
        "cache_node_decompressed_values_total",
        "Strings that were decompressed.",
        stats.unpacked,
    );
    t.counter(
        "cache_node_decompressed_bytes_total",
        "Bytes that decompressing made.",
        stats.unpacked_bytes,
    );
    t.counter(
        "cache_node_decompression_seconds_total",
        "Time spent on decompressing.",
        seconds(stats.unpack_ns),
    );
}

fn commands(node: &Node, t: &mut Text) {
    let sum = |which: &dyn Fn(&ThreadStats) -> &Counter| node.stats.sum(which);
    let used = || {
        TABLE.entries.iter().filter_map(|entry| {
            let calls = node.stats.sum(|s| &s.commands[entry.index]);
            (calls > 0).then_some((entry, calls))
        })
    };
    t.labelled(
        "cache_node_commands_total",
        "counter",
        "Commands executed; subcommands as client|list.",
        "command",
        used().map(|(entry, calls)| (entry.full_name.as_str(), calls as f64)),
    );
    t.labelled(
        "cache_node_failed_commands_total",
        "counter",
        "Commands answered with an error.",
        "command",
        used().map(|(entry, _)| {
            let failed = node.stats.sum(|s| &s.failed_commands[entry.index]);
            (entry.full_name.as_str(), failed as f64)
        }),
    );
    let errors = sum(&|s| &s.errors);
    t.counter(
        "cache_node_error_replies_total",
        "Error replies, those to unknown commands included.",
        errors,
    );
    let parked = sum(&|s| &s.parked);
    t.counter(
        "cache_node_parked_commands_total",
        "Times that a command had to wait, for a paused slot or for the log.",
        parked,
    );
    t.counter(
        "cache_node_hits_total",
        "Reads that found their key.",
        sum(&|s| &s.hits),
    );
    t.counter(
        "cache_node_misses_total",
        "Reads that did not find their key.",
        sum(&|s| &s.misses),
    );
    batches(node, t);
}

fn batches(node: &Node, t: &mut Text) {
    let name = "cache_node_batch_duration_seconds";
    t.family(
        name,
        "histogram",
        "Time from reading a batch of commands of one connection to sending its replies.",
    );
    let bucket = format!("{name}_bucket");
    let mut total = 0;
    for (i, bound) in BATCH_BOUNDS_US.iter().enumerate() {
        total += node.stats.sum(|s| &s.batches[i]);
        let bound = (*bound as f64 / 1e6).to_string();
        t.sample(&bucket, &[("le", &bound)], total);
    }
    total += node.stats.sum(|s| &s.batches[BATCH_BOUNDS_US.len()]);
    t.sample(&bucket, &[("le", "+Inf")], total);
    let seconds = node.stats.sum(|s| &s.batch_us) as f64 / 1e6;
    t.sample(&format!("{name}_sum"), &[], seconds);
    t.sample(&format!("{name}_count"), &[], total);
}

fn data(node: &Node, t: &mut Text) {
    let store = node.store.stats();
    t.gauge("cache_node_keys", "Keys held.", store.keys);
    t.gauge(
        "cache_node_keys_with_expiry",
        "Keys held that have an expiry.",
        store.expires,
    );
    t.counter(
        "cache_node_expired_keys_total",
        "Keys removed because they had expired.",
        store.expired,
    );
    t.counter(
        "cache_node_contended_locks_total",
        "Locks of slots that somebody else held when they were wanted.",
        store.contended_locks,
    );
    t.gauge(
        "cache_node_expire_lag_seconds",
        "How long the latest of the keys removed in the last round had been expired.",
        store.expire_lag_ms as f64 / 1e3,
    );
    t.counter(
        "cache_node_evicted_keys_total",
        "Keys evicted to make room.",
        store.evicted,
    );
    t.counter(
        "cache_node_evicted_bytes_total",
        "Bytes of the keys evicted.",
        store.evicted_bytes,
    );
    let kinds = [
        ("store", store.bytes as f64),
        ("pages", store.page_bytes as f64),
        ("pages_live", node.store.live_page_bytes() as f64),
        ("large_values", store.span_bytes as f64),
        ("tables", store.table_bytes as f64),
        ("other", store.other_bytes as f64),
        ("eviction_queues", store.policy_bytes as f64),
        ("log_backlog", node.log.backlog_bytes() as f64),
        ("resident", process::resident_bytes() as f64),
    ];
    t.labelled(
        "cache_node_memory_bytes",
        "gauge",
        "Memory: store is what counts against the limit, with pages, large values and other (connections, log_backlog and what the allocator keeps) in it; pages_live and tables are parts of pages; resident is what the kernel reports.",
        "kind",
        kinds,
    );
    t.counter(
        "cache_node_compaction_moved_bytes_total",
        "Bytes copied to give sparse pages back.",
        store.moved_bytes,
    );
    steps(node, t);
    t.gauge(
        "cache_node_memory_limit_bytes",
        "Limit of the store; 0: none.",
        store.max_bytes,
    );
}

/// What regions hold and have done. Nothing where there are none.
fn regions(node: &Node, t: &mut Text) {
    let regions = node.store.region_stats();
    if regions.is_empty() {
        return;
    }
    type Figure = fn(&RegionStats) -> u64;
    let families: [(&str, &str, &str, Figure); 7] = [
        ("keys", "gauge", "Keys held of a region.", |r| r.keys),
        ("bytes", "gauge", "Bytes of a region's items.", |r| r.bytes),
        (
            "limit_bytes",
            "gauge",
            "This node's part of a region's size; 0: no limit.",
            |r| r.limit,
        ),
        (
            "hits_total",
            "counter",
            "Reads that found their key in a region.",
            |r| r.hits,
        ),
        (
            "misses_total",
            "counter",
            "Reads that did not find their key in a region.",
            |r| r.misses,
        ),
        (
            "evicted_keys_total",
            "counter",
            "Keys of a region that were evicted.",
            |r| r.evicted.items,
        ),
        (
            "evicted_bytes_total",
            "counter",
            "Bytes of a region's keys that were evicted.",
            |r| r.evicted.bytes,
        ),
    ];
    for (name, kind, help, figure) in families {
        let samples = regions.iter().map(|r| (&*r.name, figure(r) as f64));
        t.labelled(
            &format!("cache_node_region_{name}"),
            kind,
            help,
            "region",
            samples,
        );
    }
}

/// The store's own work, by what it is.
fn steps(node: &Node, t: &mut Text) {
    let name = "cache_node_step_duration_seconds";
    let text = "Processor time of the store's own work under one lock: growth of a table, compaction, expiry, eviction, and counting anew when regions change.";
    t.family(name, "histogram", text);
    let bucket = format!("{name}_bucket");
    for (step, kind) in STEPS {
        let counts = node.store.steps(step);
        let mut total = 0;
        for (bound, count) in STEP_BOUNDS_US.iter().zip(counts.counts) {
            total += count;
            let bound = (*bound as f64 / 1e6).to_string();
            t.sample(&bucket, &[("step", kind), ("le", &bound)], total);
        }
        total = counts.counts.iter().sum();
        t.sample(&bucket, &[("step", kind), ("le", "+Inf")], total);
        let seconds = counts.total_us as f64 / 1e6;
        t.sample(&format!("{name}_sum"), &[("step", kind)], seconds);
        t.sample(&format!("{name}_count"), &[("step", kind)], total);
    }
}

fn connections(node: &Node, t: &mut Text) {
    let stats = &node.stats;
    t.gauge(
        "cache_node_connections",
        "Open connections of applications.",
        node.clients.len(),
    );
    let limit = node.settings.max_clients.load(Ordering::Relaxed);
    t.gauge(
        "cache_node_connections_limit",
        "Connections at most.",
        limit,
    );
    let opened = stats.connections.load(Ordering::Relaxed);
    t.counter(
        "cache_node_connections_opened_total",
        "Connections that came.",
        opened,
    );
    let rejected = stats.rejected_connections.load(Ordering::Relaxed);
    t.counter(
        "cache_node_connections_rejected_total",
        "Connections beyond the limit.",
        rejected,
    );
    let closed = stats.sum(|s| &s.output_closed);
    t.counter(
        "cache_node_connections_overflowed_total",
        "Connections closed because their replies were too large.",
        closed,
    );
    let bytes = [
        ("in", stats.sum(|s| &s.input_bytes) as f64),
        ("out", stats.sum(|s| &s.output_bytes) as f64),
    ];
    t.labelled(
        "cache_node_network_bytes_total",
        "counter",
        "Bytes of applications' connections.",
        "direction",
        bytes,
    );
}

fn replication(node: &Node, t: &mut Text) {
    let state = node.cluster.state();
    let serving = u8::from(state.serving && !node.is_stopping());
    t.gauge(
        "cache_node_serving",
        "1 while the node serves clients.",
        serving,
    );
    t.gauge(
        "cache_node_topology_epoch",
        "Version of the topology in force; 0: none.",
        state.epoch,
    );
    let role = format!("{:?}", state.role);
    let roles = ["None", "Primary", "Replica", "Learner"];
    t.labelled(
        "cache_node_role",
        "gauge",
        "1 for the node's role, 0 for the others.",
        "role",
        roles.map(|r| (r, f64::from(u8::from(r == role)))),
    );
    t.gauge(
        "cache_node_log_offset_bytes",
        "Position in the shard's log.",
        state.offset,
    );
    t.gauge(
        "cache_node_sync_lag_bytes",
        "On a replica: bytes of the log behind its primary.",
        state.sync.lag_bytes,
    );
    let lags = state.replicas.iter().map(|r| {
        let lag = state.offset.saturating_sub(r.offset);
        (r.member.as_str(), lag as f64)
    });
    t.labelled(
        "cache_node_replica_lag_bytes",
        "gauge",
        "On a primary: bytes of the log that a replica has not acknowledged.",
        "replica",
        lags,
    );
}
