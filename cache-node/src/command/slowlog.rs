//! `SLOWLOG` and `LATENCY`: the commands that took long, and how long the longest of each second took.
//!
//! Only commands that may take long are timed, unless a threshold below a millisecond or a latency threshold is set: reading the clock twice
//! costs as much as a short command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::errors::wrong_arity;
use super::histogram::Histograms;
use super::introspect::HELP;
use super::table::{Command, Entry, Flags, Group};
use super::{Context, Session, Stop};
use crate::limits::{LATENCY_SAMPLES, SLOWLOG_ARG_BYTES, SLOWLOG_ARGS, SLOWLOG_LENGTH, SLOWLOG_US};
use crate::node::{Node, now_ms};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;

const ADMIN: Flags = Flags::ADMIN.and(Flags::LOADING).and(Flags::STALE);
const LATENCY: Flags = ADMIN.and(Flags::NOSCRIPT);

const fn sub(name: &'static str, arity: i16, handler: super::Handler) -> Command {
    Command::new(name, arity, Group::Server, handler)
}

pub const COMMANDS: &[Command] = &[
    sub("slowlog", -2, container)
        .doc(
            "2.2.12",
            "Depends on subcommand.",
            "A container for slow log commands.",
        )
        .with(&[
            sub("get", -2, get).flags(ADMIN).doc(
                "2.2.12",
                "O(N) where N is the number of entries returned",
                "Returns the slow log's entries.",
            ),
            sub("len", 2, len).flags(ADMIN).doc(
                "2.2.12",
                "O(1)",
                "Returns the number of entries in the slow log.",
            ),
            sub("reset", 2, reset).flags(ADMIN).doc(
                "2.2.12",
                "O(N) where N is the number of entries in the slowlog",
                "Clears all entries from the slow log.",
            ),
            HELP,
        ]),
    sub("latency", -2, container)
        .doc(
            "2.8.13",
            "Depends on subcommand.",
            "A container for latency diagnostics commands.",
        )
        .with(&[
            sub("history", 3, history).flags(LATENCY).doc(
                "2.8.13",
                "O(1)",
                "Returns timestamp-latency samples for an event.",
            ),
            sub("latest", 2, latest).flags(LATENCY).doc(
                "2.8.13",
                "O(1)",
                "Returns the latest latency samples for all events.",
            ),
            sub("reset", -2, latency_reset).flags(LATENCY).doc(
                "2.8.13",
                "O(1)",
                "Resets the latency data for one or more events.",
            ),
            sub("doctor", 2, doctor).flags(LATENCY).doc(
                "2.8.13",
                "O(1)",
                "Returns a human-readable latency analysis report.",
            ),
            sub("graph", 3, graph).flags(LATENCY).doc(
                "2.8.13",
                "O(1)",
                "Returns a latency graph for an event.",
            ),
            sub("histogram", -2, super::histogram::histogram)
                .flags(LATENCY)
                .doc(
                    "7.0.0",
                    "O(N) where N is the number of commands with latency information being retrieved.",
                    "Returns the cumulative distribution of latencies of commands: of all with latency-tracking or a latency-monitor-threshold, else of those that may take long.",
                ),
            HELP,
        ]),
];

/// A command that took long.
#[derive(Debug, Clone)]
struct Slow {
    id: u64,
    at_s: u64,
    us: u64,
    args: Vec<Vec<u8>>,
    address: String,
    name: Vec<u8>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    latest: VecDeque<Slow>,
}

/// Unix seconds and milliseconds of an event's latest times, and the longest of all.
type Samples = (VecDeque<(u64, u64)>, u64);

/// What is kept of slow commands.
#[derive(Debug)]
pub struct SlowLog {
    /// Microseconds from which on a command is kept; negative: none is.
    pub threshold_us: AtomicI64,
    pub length: AtomicU64,
    /// Milliseconds from which on an event is kept; 0: none is.
    pub latency_ms: AtomicU64,
    /// All commands are timed for their histograms.
    pub tracks: AtomicBool,
    pub histograms: Histograms,
    entries: Mutex<Entries>,
    /// By the event's name.
    latencies: Mutex<BTreeMap<&'static str, Samples>>,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self {
            threshold_us: AtomicI64::new(SLOWLOG_US),
            length: AtomicU64::new(SLOWLOG_LENGTH),
            latency_ms: AtomicU64::new(0),
            tracks: AtomicBool::new(false),
            histograms: Histograms::default(),
            entries: Mutex::default(),
            latencies: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// Whether all commands are to be timed, however short they mostly are.
    pub fn times_all(&self) -> bool {
        (0..1000).contains(&self.threshold_us.load(Ordering::Relaxed))
            || self.latency_ms.load(Ordering::Relaxed) > 0
            || self.tracks.load(Ordering::Relaxed)
    }

    pub fn trim(&self) {
        let length = self.length.load(Ordering::Relaxed) as usize;
        self.entries.lock().latest.truncate(length);
    }

    fn add(&self, session: &Session, args: Args<'_>, us: u64) {
        let slow = |id| Slow {
            id,
            at_s: now_ms() / 1000,
            us,
            args: shortened(args),
            address: session.client.address.to_string(),
            name: session.client.labels.lock().name.clone(),
        };
        let mut entries = self.entries.lock();
        let id = entries.next;
        entries.next += 1;
        entries.latest.push_front(slow(id));
        drop(entries);
        self.trim();
    }

    fn add_latency(&self, event: &'static str, now_s: u64, ms: u64) {
        let mut latencies = self.latencies.lock();
        let (samples, max) = latencies.entry(event).or_default();
        *max = ms.max(*max);
        match samples.back_mut() {
            // One a second: the longest.
            Some((at, longest)) if *at == now_s => *longest = ms.max(*longest),
            _ => samples.push_back((now_s, ms)),
        }
        if samples.len() > LATENCY_SAMPLES {
            samples.pop_front();
        }
    }
}

/// Not more of a command than tells what it was, as in Redis.
fn shortened(args: Args<'_>) -> Vec<Vec<u8>> {
    let shown = match args.len() > SLOWLOG_ARGS {
        true => SLOWLOG_ARGS - 1,
        false => args.len(),
    };
    let short = |arg: &[u8]| match arg.len() > SLOWLOG_ARG_BYTES {
        true => {
            let more = arg.len() - SLOWLOG_ARG_BYTES;
            let mut text = arg[..SLOWLOG_ARG_BYTES].to_vec();
            text.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
            text
        }
        false => arg.to_vec(),
    };
    let mut words: Vec<Vec<u8>> = args.iter().take(shown).map(short).collect();
    if shown < args.len() {
        let more = args.len() - shown;
        words.push(format!("... ({more} more arguments)").into_bytes());
    }
    words
}

/// A command took so long.
#[cold]
pub fn took(node: &Node, session: &Session, entry: &Entry, args: Args<'_>, time: Duration) {
    let us = time.as_micros() as u64;
    let threshold = node.slow.threshold_us.load(Ordering::Relaxed);
    if threshold >= 0 && us >= threshold as u64 && !entry.command.flags.has(Flags::SKIP_SLOWLOG) {
        node.slow.add(session, args, us);
    }
    let latency = node.slow.latency_ms.load(Ordering::Relaxed);
    if latency > 0 && us / 1000 >= latency {
        let fast = entry.command.flags.has(Flags::FAST);
        let event = if fast { "fast-command" } else { "command" };
        node.slow.add_latency(event, now_ms() / 1000, us / 1000);
    }
}

/// When a command that is timed began; None: it is not.
pub fn begin(timed: bool) -> Option<Instant> {
    timed.then(Instant::now)
}

/// Ends what [`begin`] began.
pub fn end(node: &Node, session: &Session, entry: &Entry, args: Args<'_>, begun: Option<Instant>) {
    let Some(begun) = begun else {
        return;
    };
    let time = begun.elapsed();
    node.slow.histograms.add(entry.index, time);
    let threshold = node.slow.threshold_us.load(Ordering::Relaxed);
    let slow = threshold >= 0 && time.as_micros() >= threshold as u128;
    if slow || node.slow.latency_ms.load(Ordering::Relaxed) > 0 {
        took(node, session, entry, args, time);
    }
}

fn container(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err(wrong_arity(context.name))
}

fn get(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    const COUNT: &str = "ERR count should be greater than or equal to -1";
    if args.len() > 3 {
        return Err(wrong_arity(context.name));
    }
    let count = match args.get(2) {
        None => 10,
        Some(text) => match parse_i64(text).ok_or(super::errors::NOT_INTEGER)? {
            -1 => usize::MAX,
            n => usize::try_from(n).map_err(|_| COUNT)?,
        },
    };
    let entries: Vec<Slow> = {
        let entries = context.node.slow.entries.lock();
        entries.latest.iter().take(count).cloned().collect()
    };
    let reply = &mut context.reply;
    reply.array(entries.len());
    for entry in entries {
        reply.array(6);
        reply.unsigned(entry.id);
        reply.unsigned(entry.at_s);
        reply.unsigned(entry.us);
        reply.array(entry.args.len());
        entry.args.iter().for_each(|arg| reply.bulk(arg));
        reply.text(&entry.address);
        reply.bulk(&entry.name);
    }
    Ok(())
}

fn len(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let entries = context.node.slow.entries.lock().latest.len();
    context.reply.integer(entries as i64);
    Ok(())
}

fn reset(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    context.node.slow.entries.lock().latest.clear();
    context.reply.ok();
    Ok(())
}

fn samples_of(context: &Context<'_>, event: &[u8]) -> Vec<(u64, u64)> {
    let event = String::from_utf8_lossy(event);
    let latencies = context.node.slow.latencies.lock();
    let of_event = latencies.get(&*event);
    of_event.map_or(Vec::new(), |(samples, _)| samples.iter().copied().collect())
}

fn history(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let samples = samples_of(context, args.at(2));
    context.reply.array(samples.len());
    for (at, ms) in samples {
        context.reply.array(2);
        context.reply.unsigned(at);
        context.reply.unsigned(ms);
    }
    Ok(())
}

fn latest(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let latencies = context.node.slow.latencies.lock();
    let reply = &mut context.reply;
    reply.array(latencies.len());
    for (event, (samples, max)) in latencies.iter() {
        let (at, ms) = samples.back().copied().unwrap_or_default();
        reply.array(4);
        reply.text(event);
        reply.unsigned(at);
        reply.unsigned(ms);
        reply.unsigned(*max);
    }
    Ok(())
}

fn latency_reset(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let mut latencies = context.node.slow.latencies.lock();
    let before = latencies.len();
    match args.len() {
        2 => latencies.clear(),
        _ => latencies.retain(|event, _| args.from(2).iter().all(|e| e != event.as_bytes())),
    }
    let gone = before - latencies.len();
    drop(latencies);
    context.reply.integer(gone as i64);
    Ok(())
}

fn doctor(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let text = match context.node.slow.latency_ms.load(Ordering::Relaxed) {
        0 => "Latencies are not kept: say from how many milliseconds on with CONFIG SET latency-monitor-threshold.\n".to_owned(),
        _ => {
            let latencies = context.node.slow.latencies.lock();
            let mut text = format!("{} events were slow. SLOWLOG GET tells which commands.\n", latencies.len());
            for (event, (samples, max)) in latencies.iter() {
                let sum: u64 = samples.iter().map(|(_, ms)| ms).sum();
                let average = sum / samples.len().max(1) as u64;
                text.push_str(&format!("{event}: {} samples, {average} ms on average, {max} ms at most.\n", samples.len()));
            }
            text
        }
    };
    context.reply.verbatim(&text);
    Ok(())
}

fn graph(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    /// Rows of the picture.
    const ROWS: u64 = 4;
    let samples = samples_of(context, args.at(2));
    let Some(high) = samples.iter().map(|(_, ms)| *ms).max() else {
        let event = super::dispatch::shown(args.at(2), 128);
        return Err(format!("ERR No samples available for event '{event}'").into());
    };
    let low = samples.iter().map(|(_, ms)| *ms).min().unwrap_or(high);
    let event = String::from_utf8_lossy(args.at(2));
    let mut text = format!("{event} - high {high} ms, low {low} ms\n");
    text.push_str(&"-".repeat(80));
    text.push('\n');
    for row in (1..=ROWS).rev() {
        let reaches = |ms: u64| ms * ROWS >= high * row;
        text.extend(
            samples
                .iter()
                .map(|(_, ms)| if reaches(*ms) { '#' } else { ' ' }),
        );
        text.push('\n');
    }
    context.reply.verbatim(&text);
    Ok(())
}
