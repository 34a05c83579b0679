//! `cachectl status`

use std::fmt::Write;

use cache_operator::api::cache::{Cache, CacheStatus, MemberStatus, Phase};
use cache_operator::api::common::Condition;
use cache_operator::api::topology::{Role, Shard, SlotRange};
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Table, ago, bytes, count};
use crate::style;

/// Ranges of one shard shown at most; the rest is counted.
const RANGES_SHOWN: usize = 3;

/// A Cache as a person looks at it: header, members, conditions, what is pending.
pub fn status(cache: &Cache, now: Timestamp) -> String {
    let empty = CacheStatus::default();
    let status = cache.status.as_ref().unwrap_or(&empty);
    let mut out = String::new();
    header(&mut out, cache, status, now);
    if !status.members.is_empty() {
        out.push('\n');
        out.push_str(&members(status));
    }
    if let Some(topology) = status.topology.as_ref().filter(|t| !t.moves.is_empty()) {
        out.push('\n');
        for moving in &topology.moves {
            let _ = writeln!(
                out,
                "  {} {} slots move from shard {} to {}",
                style::warn("→"),
                moving.slot_count(),
                moving.from,
                moving.to
            );
        }
    }
    if !status.conditions.is_empty() {
        out.push('\n');
        out.push_str(&conditions(&status.conditions, now));
    }
    if !status.pending_actions.is_empty() {
        let _ = writeln!(out, "\n  {}", style::dim("PENDING"));
        for action in &status.pending_actions {
            let _ = writeln!(out, "  {} {action}", style::warn("•"));
        }
    }
    out
}

fn header(out: &mut String, cache: &Cache, status: &CacheStatus, now: Timestamp) {
    let phase = match status.phase {
        Some(Phase::Ready) => style::good("Ready"),
        Some(phase @ (Phase::Degraded | Phase::Invalid)) => style::error(format!("{phase:?}")),
        Some(phase) => style::warn(format!("{phase:?}")),
        None => style::warn("not seen by an operator yet"),
    };
    let age = cache
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|t| format!(", {} old", ago(now, t.0)));
    let _ = writeln!(
        out,
        "{} {}  {phase}",
        style::bold(cache.name_any()),
        style::dim(format!(
            "({}{})",
            cache.namespace().unwrap_or_default(),
            age.unwrap_or_default()
        )),
    );
    let ready = status.ready_shards.as_deref().unwrap_or("0/0");
    let wanted = cache.spec.shards;
    let scaling = if wanted == status.shards {
        String::new()
    } else {
        format!(", {wanted} wanted")
    };
    let replicas = cache.spec.replicas_per_shard;
    let _ = writeln!(
        out,
        "  shards    {ready} ready{scaling}, {replicas} {} each",
        if replicas == 1 { "replica" } else { "replicas" }
    );
    let endpoint = status
        .endpoint
        .clone()
        .unwrap_or_else(|| style::dim("none yet"));
    let _ = writeln!(out, "  endpoint  {endpoint}");
    let primaries = || {
        status
            .members
            .iter()
            .filter(|m| m.role == Some(Role::Primary))
    };
    let keys: i64 = primaries().map(|m| m.keys).sum();
    let held: i64 = primaries().map(|m| m.bytes).sum();
    let _ = writeln!(out, "  data      {} keys, {}", count(keys), bytes(held));
    if let Some(topology) = &status.topology {
        let _ = writeln!(out, "  topology  epoch {}", topology.epoch);
    }
}

fn members(status: &CacheStatus) -> String {
    let mut titles = vec![
        "SHARD", "MEMBER", "ROLE", "SLOTS", ">KEYS", ">BYTES", ">LAG", "READY",
    ];
    // Local mode has no nodes.
    if status.members.iter().any(|m| m.node.is_some()) {
        titles.push("NODE");
    }
    let mut table = Table::new(&titles);
    let mut members: Vec<&MemberStatus> = status.members.iter().collect();
    let number = |shard: &str| shard.parse::<u32>().unwrap_or(u32::MAX);
    members.sort_by_key(|m| {
        (
            number(&m.shard),
            m.role != Some(Role::Primary),
            m.name.clone(),
        )
    });
    let mut last_shard = None;
    for member in members {
        let first = last_shard != Some(&member.shard);
        last_shard = Some(&member.shard);
        let mut row = member_row(status, member, first);
        row.truncate(titles.len());
        table.row(row);
    }
    table.lines()
}

fn member_row(status: &CacheStatus, member: &MemberStatus, first_of_shard: bool) -> Vec<String> {
    let shard = status
        .topology
        .as_ref()
        .and_then(|t| t.shard(&member.shard));
    let primary = status
        .members
        .iter()
        .find(|m| m.shard == member.shard && m.role == Some(Role::Primary));
    let is_primary = member.role == Some(Role::Primary);
    let lag = match primary {
        Some(primary) if !is_primary && member.role.is_some() => {
            bytes((primary.offset - member.offset).max(0))
        }
        _ => String::new(),
    };
    vec![
        if first_of_shard {
            member.shard.clone()
        } else {
            String::new()
        },
        member.name.clone(),
        match member.role {
            Some(Role::Primary) => style::bold("Primary"),
            Some(role) => format!("{role:?}"),
            None => style::dim("none"),
        },
        if is_primary {
            shard.map(slots).unwrap_or_default()
        } else {
            String::new()
        },
        count(member.keys),
        bytes(member.bytes),
        lag,
        match (member.ready, member.message.as_str()) {
            (true, _) => style::good("yes"),
            (false, "") => style::error("no"),
            (false, why) => format!("{} ({why})", style::error("no")),
        },
        member.node.clone().unwrap_or_default(),
    ]
}

/// `0-5460 (5,461)`
fn slots(shard: &Shard) -> String {
    if shard.slots.is_empty() {
        return style::dim("none");
    }
    let range = |SlotRange(first, last): &SlotRange| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    let mut shown: Vec<String> = shard.slots.iter().take(RANGES_SHOWN).map(range).collect();
    if shard.slots.len() > RANGES_SHOWN {
        shown.push(format!("+{}", shard.slots.len() - RANGES_SHOWN));
    }
    format!(
        "{} ({})",
        shown.join(","),
        count(i64::from(shard.slot_count()))
    )
}

fn conditions(conditions: &[Condition], now: Timestamp) -> String {
    let mut table = Table::new(&["CONDITION", "STATUS", "FOR", "REASON", "MESSAGE"]);
    let mut sorted: Vec<&Condition> = conditions.iter().collect();
    sorted.sort_by_key(|c| (c.type_ != "Ready", c.type_.clone()));
    for condition in sorted {
        let status = if is_good(condition) {
            style::good(&condition.status)
        } else {
            style::warn(&condition.status)
        };
        table.row(vec![
            condition.type_.clone(),
            status,
            ago(now, condition.last_transition_time.0),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    table.lines()
}

/// `Ready` is good when True, every other condition of a Cache is one to look at then.
pub(super) fn is_good(condition: &Condition) -> bool {
    (condition.type_ == "Ready") == (condition.status == "True")
}
