//! A fixed set of keys whose values follow from their names: written, later verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use redis::AsyncCommands;
use redis::cluster_async::ClusterConnection;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::report::Failures;

#[derive(Args, Clone)]
pub struct Keys {
    /// How many keys: PREFIX0 to PREFIX(N-1)
    #[arg(long)]
    keys: u64,
    /// What the keys begin with
    #[arg(long, default_value = "key:")]
    prefix: String,
    /// Bytes of each value, at least 20
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(20..=1 << 20))]
    value_bytes: u64,
    /// Requests under way at a time
    #[arg(long, default_value_t = 64)]
    concurrency: u64,
}

impl Keys {
    fn key(&self, i: u64) -> String {
        format!("{}{i}", self.prefix)
    }

    /// The number, then a run of bytes that depends on it: no two keys have the same value, and no part of it is constant.
    fn value(&self, i: u64) -> Vec<u8> {
        let mut value = format!("{i}:").into_bytes();
        let mut state = i.wrapping_add(0x9E37_79B9_7F4A_7C15);
        while (value.len() as u64) < self.value_bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.push(state as u8);
        }
        value
    }
}

#[derive(Clone, Copy)]
enum Work {
    Write,
    Verify,
}

pub async fn write(connection: ClusterConnection, keys: Keys) -> Result<(Value, bool)> {
    let started = Instant::now();
    let failures = each_key(&connection, &keys, Work::Write).await?;
    let report = json!({
        "command": "write",
        "written": keys.keys - failures.total(),
        "errors": failures.json(),
        "elapsedMs": started.elapsed().as_millis() as u64,
    });
    Ok((report, failures.total() == 0))
}

pub async fn verify(
    mut connection: ClusterConnection,
    keys: Keys,
    total: Option<u64>,
) -> Result<(Value, bool)> {
    let started = Instant::now();
    let mut failures = each_key(&connection, &keys, Work::Verify).await?;
    let right = keys.keys - failures.total();
    let mut counted = None;
    if let Some(total) = total {
        // redis-rs sums the answers of all primaries.
        let sum: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await?;
        counted = Some(sum);
        if sum != total {
            failures.add(
                "count",
                format!("the primaries hold {sum} keys, not {total}"),
            );
        }
    }
    let report = json!({
        "command": "verify",
        "right": right,
        "counted": counted,
        "errors": failures.json(),
        "elapsedMs": started.elapsed().as_millis() as u64,
    });
    Ok((report, failures.total() == 0))
}

/// Does `work` for each key's number, `concurrency` at a time.
async fn each_key(connection: &ClusterConnection, keys: &Keys, work: Work) -> Result<Failures> {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..keys.concurrency.max(1) {
        let (next, keys, mut connection) = (next.clone(), keys.clone(), connection.clone());
        workers.spawn(async move {
            let mut failures = Failures::default();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= keys.keys {
                    return failures;
                }
                one(&mut connection, &keys, i, work, &mut failures).await;
            }
        });
    }
    let mut all = Failures::default();
    while let Some(failures) = workers.join_next().await {
        all.merge(failures?);
    }
    Ok(all)
}

async fn one(c: &mut ClusterConnection, keys: &Keys, i: u64, work: Work, failures: &mut Failures) {
    let (key, value) = (keys.key(i), keys.value(i));
    match work {
        Work::Write => {
            if let Err(e) = c.set::<_, _, ()>(&key, value).await {
                failures.error(&key, &e);
            }
        }
        Work::Verify => match c.get::<_, Option<Vec<u8>>>(&key).await {
            Ok(Some(found)) if found == value => {}
            Ok(Some(found)) => failures.add(
                "wrong",
                format!("{key}: {} bytes, not those that were written", found.len()),
            ),
            Ok(None) => failures.add("missing", format!("{key}: there is no such key")),
            Err(e) => failures.error(&key, &e),
        },
    }
}
