//! `CLUSTER`: the topology as clients are told of it.

use std::fmt::Write as _;

use super::access::is_shown;
use super::errors::{CLUSTER_DISABLED, wrong_arity};
use super::introspect::HELP;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::cluster::routing::{Routing, RoutingNode, RoutingShard};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::{SLOTS, slot_of};

const SHOW: Flags = Flags::STALE;

const fn sub(name: &'static str, arity: i16, handler: super::Handler) -> Command {
    Command::new(name, arity, Group::Cluster, handler).flags(SHOW)
}

pub const COMMANDS: &[Command] = &[Command::new("cluster", -2, Group::Cluster, container)
    .doc(
        "3.0.0",
        "Depends on subcommand.",
        "A container for Redis Cluster commands.",
    )
    .with(&[
        sub("slots", 2, slots).doc(
            "3.0.0",
            "O(N) where N is the total number of Cluster nodes",
            "Returns the mapping of cluster slots to nodes.",
        ),
        sub("shards", 2, shards).doc(
            "7.0.0",
            "O(N) where N is the total number of cluster nodes",
            "Returns the mapping of cluster slots to shards.",
        ),
        sub("nodes", 2, nodes).doc(
            "3.0.0",
            "O(N) where N is the total number of Cluster nodes",
            "Returns the cluster configuration for a node.",
        ),
        sub("replicas", 3, replicas)
            .flags(Flags::STALE.and(Flags::ADMIN))
            .doc(
                "5.0.0",
                "O(N) where N is the number of replicas.",
                "Lists the replica nodes of a primary node.",
            ),
        sub("info", 2, info).doc(
            "3.0.0",
            "O(1)",
            "Returns information about the state of a node.",
        ),
        sub("myid", 2, myid).doc("3.0.0", "O(1)", "Returns the ID of a node."),
        sub("keyslot", 3, keyslot).doc(
            "3.0.0",
            "O(N) where N is the number of bytes in the key",
            "Returns the hash slot for a key.",
        ),
        sub("countkeysinslot", 3, countkeysinslot).doc(
            "3.0.0",
            "O(1)",
            "Returns the number of keys in a hash slot.",
        ),
        sub("getkeysinslot", 4, getkeysinslot).doc(
            "3.0.0",
            "O(N) where N is the number of requested keys",
            "Returns the key names in a hash slot.",
        ),
        HELP,
    ])];

fn container(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err(wrong_arity(context.name))
}

fn routing(context: &Context<'_>) -> Result<std::sync::Arc<Routing>, Stop> {
    match context.node.is_cluster() {
        true => Ok(context.node.cluster.routing()),
        false => Err(CLUSTER_DISABLED.into()),
    }
}

/// A node as `CLUSTER SLOTS` tells it.
fn slots_node(reply: &mut crate::protocol::Reply<'_>, node: &RoutingNode) {
    reply.array(4);
    reply.text(&node.host);
    reply.integer(i64::from(node.port));
    reply.text(&node.id);
    // Other endpoints.
    reply.map(0);
}

fn slots(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let routing = routing(context)?;
    let ranges: Vec<_> = routing
        .shards
        .iter()
        .filter_map(|shard| Some((shard, shard.primary.as_ref()?)))
        .flat_map(|(shard, primary)| shard.slots.iter().map(move |range| (range, shard, primary)))
        .collect();
    let reply = &mut context.reply;
    reply.array(ranges.len());
    for (range, shard, primary) in ranges {
        reply.array(3 + shard.replicas.len());
        reply.integer(i64::from(range.0));
        reply.integer(i64::from(range.1));
        slots_node(reply, primary);
        shard
            .replicas
            .iter()
            .for_each(|node| slots_node(reply, node));
    }
    Ok(())
}

fn shards(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let routing = routing(context)?;
    let offset = context.node.cluster.state().offset;
    let reply = &mut context.reply;
    reply.array(routing.shards.len());
    for shard in &routing.shards {
        reply.map(2);
        reply.text("slots");
        reply.array(shard.slots.len() * 2);
        for range in &shard.slots {
            reply.integer(i64::from(range.0));
            reply.integer(i64::from(range.1));
        }
        reply.text("nodes");
        let nodes = shard.primary.iter().map(|n| (n, "master"));
        let nodes = nodes.chain(shard.replicas.iter().map(|n| (n, "replica")));
        reply.array(usize::from(shard.primary.is_some()) + shard.replicas.len());
        for (node, role) in nodes {
            reply.map(7);
            reply.text("id");
            reply.text(&node.id);
            reply.text("port");
            reply.integer(i64::from(node.port));
            for (field, text) in [("ip", &node.host), ("endpoint", &node.host)] {
                reply.text(field);
                reply.text(text);
            }
            reply.text("role");
            reply.text(role);
            reply.text("replication-offset");
            reply.unsigned(if node.myself { offset } else { 0 });
            reply.text("health");
            reply.text("online");
        }
    }
    Ok(())
}

/// A node's line in `CLUSTER NODES`.
fn node_line(routing: &Routing, shard: &RoutingShard, node: &RoutingNode, primary: bool) -> String {
    let myself = if node.myself { "myself," } else { "" };
    let (role, of) = match (primary, &shard.primary) {
        (true, _) => ("master", "-"),
        (false, Some(primary)) => ("slave", primary.id.as_str()),
        (false, None) => ("slave", "-"),
    };
    let mut line = format!(
        "{} {}:{}@{} {myself}{role} {of} 0 0 {} connected",
        node.id, node.host, node.port, node.control_port, routing.epoch
    );
    if primary {
        for range in &shard.slots {
            // Writing to a String cannot fail.
            let _ = match range.0 == range.1 {
                true => write!(line, " {}", range.0),
                false => write!(line, " {}-{}", range.0, range.1),
            };
        }
    }
    line
}

fn nodes(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let routing = routing(context)?;
    let mut text: String = routing
        .nodes()
        .map(|(shard, node, primary)| node_line(&routing, shard, node, primary) + "\n")
        .collect();
    if !routing.nodes().any(|(_, node, _)| node.myself) {
        // As a node that has met nobody: it knows itself.
        let config = &context.node.config;
        let host = config.advertise_host.as_deref().unwrap_or_default();
        let port = config.advertise_port.unwrap_or(context.node.port());
        let _ = writeln!(
            text,
            "{} {host}:{port}@{} myself,master,noaddr - 0 0 {} connected",
            routing.my_id,
            config.control_port(),
            routing.epoch
        );
    }
    context.reply.verbatim(&text);
    Ok(())
}

fn replicas(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let routing = routing(context)?;
    let id = super::dispatch::shown(args.at(2), 128);
    if !routing.nodes().any(|(_, node, _)| node.id == id) {
        return Err(format!("ERR Unknown node {id}").into());
    }
    let shard = routing
        .shards
        .iter()
        .find(|s| s.primary.as_ref().is_some_and(|p| p.id == id));
    let shard = shard.ok_or("ERR The specified node is not a master")?;
    context.reply.array(shard.replicas.len());
    for node in &shard.replicas {
        context.reply.text(&node_line(&routing, shard, node, false));
    }
    Ok(())
}

fn info(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let routing = routing(context)?;
    let text = info_text(&routing);
    context.reply.verbatim(&text);
    Ok(())
}

fn info_text(routing: &Routing) -> String {
    let assigned = routing.assigned();
    let state = if assigned == usize::from(SLOTS) {
        "ok"
    } else {
        "fail"
    };
    let size = routing
        .shards
        .iter()
        .filter(|s| !s.slots.is_empty())
        .count();
    let known = routing.nodes().count().max(1);
    format!(
        "cluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{assigned}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:0\r\ncluster_known_nodes:{known}\r\ncluster_size:{size}\r\ncluster_current_epoch:{}\r\n\
         cluster_my_epoch:{}\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n",
        routing.epoch, routing.epoch
    )
}

fn myid(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let routing = routing(context)?;
    context.reply.text(&routing.my_id);
    Ok(())
}

fn keyslot(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    routing(context)?;
    context.reply.integer(i64::from(slot_of(args.at(2))));
    Ok(())
}

fn slot(text: &[u8]) -> Result<u16, Stop> {
    let slot = parse_i64(text).ok_or("ERR Invalid slot")?;
    let slot = u16::try_from(slot).ok().filter(|&slot| slot < SLOTS);
    slot.ok_or_else(|| "ERR Invalid slot".into())
}

fn countkeysinslot(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    routing(context)?;
    let slot = slot(args.at(2))?;
    let guard = context.lock(&[slot])?;
    let keys = if is_shown(guard.slot_state(slot)) {
        guard.slot_len(slot)
    } else {
        0
    };
    drop(guard);
    context.reply.integer(keys as i64);
    Ok(())
}

fn getkeysinslot(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    routing(context)?;
    let slot = slot(args.at(2))?;
    let most = parse_i64(args.at(3)).and_then(|n| usize::try_from(n).ok());
    let most = most.ok_or("ERR Invalid number of keys")?;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut guard = context.lock(&[slot])?;
    if most > 0 && is_shown(guard.slot_state(slot)) {
        guard.walk(slot, 0, most, context.now_ms, &mut |item| {
            keys.push(item.key().to_vec())
        });
    }
    drop(guard);
    keys.truncate(most);
    context.reply.array(keys.len());
    keys.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}
