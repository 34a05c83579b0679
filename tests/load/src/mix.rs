//! Writers that own their keys and number their writes, so that each acknowledged write can be accounted for.
//!
//! A write is `SET key seq GET`: it also answers what was there before, so a lost write shows at the very next write to its key,
//! and cannot hide behind it. What may be there is anything from the last acknowledged number to the last attempted one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncCommands, RedisResult};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::report::Failures;

#[derive(Args, Clone)]
pub struct Mix {
    /// What the keys begin with
    #[arg(long, default_value = "load:")]
    prefix: String,
    /// Writers, each with one request under way
    #[arg(long, default_value_t = 8)]
    writers: u64,
    /// Keys each writer owns
    #[arg(long, default_value_t = 500)]
    keys_per_writer: u64,
    /// Requests a second over all writers; a third of them are reads
    #[arg(long, default_value_t = 1_500)]
    rate: u64,
}

/// What a writer knows of one of its keys. Zero: never.
#[derive(Clone, Copy, Default)]
struct Known {
    acknowledged: u64,
    attempted: u64,
}

#[derive(Default)]
struct Tally {
    writes: u64,
    reads: u64,
    keys: u64,
    lost: u64,
    keys_with_loss: u64,
    gap_max: Duration,
    failures: Failures,
}

/// Turns true when the time is over or the file is there.
pub fn stop_signal(seconds: Option<u64>, file: Option<PathBuf>) -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let end = seconds.map(|s| Instant::now() + Duration::from_secs(s));
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let over = end.is_some_and(|end| Instant::now() >= end);
            if over || file.as_ref().is_some_and(|f| f.exists()) {
                stop.send_replace(true);
                return;
            }
        }
    });
    stopped
}

pub async fn run(
    connection: ClusterConnection,
    mix: Mix,
    stopped: watch::Receiver<bool>,
) -> Result<(Value, bool)> {
    let started = Instant::now();
    let mut writers = JoinSet::new();
    let (first, mut first_done) = tokio::sync::mpsc::channel::<()>(1);
    for id in 0..mix.writers.max(1) {
        let writer = Writer {
            id,
            mix: mix.clone(),
            connection: connection.clone(),
            known: vec![Known::default(); mix.keys_per_writer.max(1) as usize],
            tally: Tally::default(),
            last_success: Instant::now(),
        };
        writers.spawn(writer.run(stopped.clone(), first.clone()));
    }
    drop(first);
    // The channel closes once each writer has had its first success: whoever started this may then change the cluster.
    let _ = first_done.recv().await;
    println!("{}", json!({"event": "started"}));
    let mut total = Tally::default();
    while let Some(tally) = writers.join_next().await {
        total.merge(tally?);
    }
    let good = total.lost == 0 && total.failures.total() == 0;
    let report = json!({
        "command": "run",
        "writes": total.writes,
        "reads": total.reads,
        "keys": total.keys,
        "lostAcknowledgedWrites": total.lost,
        "keysWithLoss": total.keys_with_loss,
        "maxGapMs": total.gap_max.as_millis() as u64,
        "errors": total.failures.json(),
        "elapsedMs": started.elapsed().as_millis() as u64,
    });
    Ok((report, good))
}

impl Tally {
    fn merge(&mut self, other: Tally) {
        self.writes += other.writes;
        self.reads += other.reads;
        self.keys += other.keys;
        self.lost += other.lost;
        self.keys_with_loss += other.keys_with_loss;
        self.gap_max = self.gap_max.max(other.gap_max);
        self.failures.merge(other.failures);
    }
}

struct Writer {
    id: u64,
    mix: Mix,
    connection: ClusterConnection,
    known: Vec<Known>,
    tally: Tally,
    last_success: Instant,
}

impl Writer {
    async fn run(
        mut self,
        stopped: watch::Receiver<bool>,
        first: tokio::sync::mpsc::Sender<()>,
    ) -> Tally {
        let each = Duration::from_secs_f64(self.mix.writers as f64 / self.mix.rate.max(1) as f64);
        let mut tick = tokio::time::interval(each);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first = Some(first);
        let mut turn = 0;
        while !*stopped.borrow() {
            tick.tick().await;
            let slot = turn % self.known.len();
            let good = if turn % 3 == 2 {
                self.read(slot / 2).await
            } else {
                self.write(slot).await
            };
            if good {
                let now = Instant::now();
                self.tally.gap_max = self.tally.gap_max.max(now - self.last_success);
                self.last_success = now;
                first.take();
            }
            turn += 1;
        }
        // A writer that stopped in the middle of an outage was cut off until now.
        self.tally.gap_max = self.tally.gap_max.max(self.last_success.elapsed());
        for slot in 0..self.known.len() {
            if self.known[slot].attempted > 0 {
                self.read(slot).await;
            }
        }
        self.tally.keys = self.known.iter().filter(|k| k.acknowledged > 0).count() as u64;
        self.tally
    }

    fn key(&self, slot: usize) -> String {
        format!("{}{}:{slot}", self.mix.prefix, self.id)
    }

    async fn write(&mut self, slot: usize) -> bool {
        let key = self.key(slot);
        let seq = self.known[slot].attempted + 1;
        self.known[slot].attempted = seq;
        let before: RedisResult<Option<u64>> = redis::cmd("SET")
            .arg(&key)
            .arg(seq)
            .arg("GET")
            .query_async(&mut self.connection)
            .await;
        match before {
            Ok(before) => {
                self.judge(slot, &key, before);
                self.known[slot].acknowledged = seq;
                self.tally.writes += 1;
                true
            }
            Err(e) => {
                self.tally.failures.error(&key, &e);
                false
            }
        }
    }

    async fn read(&mut self, slot: usize) -> bool {
        let key = self.key(slot);
        match self.connection.get::<_, Option<u64>>(&key).await {
            Ok(found) => {
                self.judge(slot, &key, found);
                self.tally.reads += 1;
                true
            }
            Err(e) => {
                self.tally.failures.error(&key, &e);
                false
            }
        }
    }

    fn judge(&mut self, slot: usize, key: &str, found: Option<u64>) {
        let known = &mut self.known[slot];
        let found = found.unwrap_or(0);
        if found < known.acknowledged {
            self.tally.lost += known.acknowledged - found;
            self.tally.keys_with_loss += 1;
            known.acknowledged = found; // counted once
        } else if found > known.attempted {
            let sample = format!("{key} is {found}, but only {} was written", known.attempted);
            self.tally.failures.add("foreign", sample);
        }
    }
}
