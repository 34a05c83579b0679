//! `cachectl why`

use std::fmt::Write;

use cache_operator::api::cache::{Cache, CacheStatus};
use cache_operator::api::common::Condition;
use jiff::Timestamp;
use kube::ResourceExt;

use super::ago;
use super::mends::mend;
use super::status::is_good;
use crate::source::Happened;
use crate::style;

const EVENTS_SHOWN: usize = 8;

/// What a Cache waits for, since when, why, what a person can do, and what happened last.
pub fn why(cache: &Cache, events: &[Happened], now: Timestamp) -> String {
    let mut out = String::new();
    let name = style::bold(cache.name_any());
    let Some(status) = cache.status.as_ref().filter(|s| !s.conditions.is_empty()) else {
        let _ = writeln!(out, "{name}: no operator has looked at it yet");
        let _ = writeln!(
            out,
            "  {} see whether one runs and watches this namespace: kubectl get deployment -A -l app.kubernetes.io/name=cache-operator",
            style::warn("→")
        );
        return out;
    };
    headline(&mut out, &name, status, now);
    stale(&mut out, cache, status);
    for condition in status.conditions.iter().filter(|c| is_told(c)) {
        tell(&mut out, condition, now);
    }
    for member in status
        .members
        .iter()
        .filter(|m| !m.ready && !m.message.is_empty())
    {
        let _ = writeln!(
            out,
            "  {} {}: {}",
            style::warn("•"),
            member.name,
            member.message
        );
    }
    if !status.pending_actions.is_empty() {
        let _ = writeln!(out, "\n  {}", style::dim("STILL TO DO"));
        for action in &status.pending_actions {
            let _ = writeln!(out, "  {} {action}", style::warn("•"));
        }
    }
    if !events.is_empty() {
        let _ = writeln!(out, "\n  {}", style::dim("WHAT HAPPENED LAST"));
        let skipped = events.len().saturating_sub(EVENTS_SHOWN);
        for event in &events[skipped..] {
            let mark = if event.warning {
                style::error("!")
            } else {
                style::good("•")
            };
            let _ = writeln!(
                out,
                "  {mark} {:>4} ago  {}: {}",
                ago(now, event.time),
                event.reason,
                event.message
            );
        }
    }
    out
}

/// A paused Cache does not progress, which is good of others.
fn is_told(condition: &Condition) -> bool {
    !is_good(condition) || condition.reason == "Paused"
}

fn headline(out: &mut String, name: &str, status: &CacheStatus, now: Timestamp) {
    match status.conditions.iter().find(|c| c.type_ == "Ready") {
        Some(ready) if ready.status == "True" => {
            let rest =
                if !status.conditions.iter().any(is_told) && status.pending_actions.is_empty() {
                    "; nothing is waited for"
                } else {
                    ""
                };
            let since = ago(now, ready.last_transition_time.0);
            let _ = writeln!(out, "{name} is {} for {since}{rest}", style::good("Ready"));
        }
        Some(ready) => {
            let since = ago(now, ready.last_transition_time.0);
            let _ = writeln!(out, "{name} is {} for {since}", style::error("not Ready"));
        }
        None => {
            let _ = writeln!(out, "{name}: whether it is Ready is not known yet");
        }
    }
}

fn stale(out: &mut String, cache: &Cache, status: &CacheStatus) {
    if status.observed_generation < cache.metadata.generation {
        let _ = writeln!(
            out,
            "  {} the spec was changed and the operator has not taken it up yet",
            style::warn("•")
        );
    }
}

fn tell(out: &mut String, condition: &Condition, now: Timestamp) {
    let _ = writeln!(
        out,
        "  {} {} is {} for {}, {}: {}",
        style::warn("•"),
        condition.type_,
        condition.status,
        ago(now, condition.last_transition_time.0),
        condition.reason,
        condition.message
    );
    if let Some(mend) = mend(&condition.reason) {
        let _ = writeln!(out, "    {} {mend}", style::warn("→"));
    }
}
