//! Writers and readers that know what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{StreamExt, TryStreamExt};
use redis::AsyncCommands;
use redis::cluster_async::ClusterConnection;

const WRITERS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);
const IN_FLIGHT: usize = 64;

pub fn key(number: u64) -> String {
    format!("key:{number}")
}

/// Differs for each key and version.
pub fn value(number: u64, version: u64) -> String {
    format!(
        "{number}/{version}/{:016x}",
        (number ^ (version << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
}

fn version(number: u64, found: &str) -> u64 {
    let version = found
        .split('/')
        .nth(1)
        .and_then(|v| v.parse().ok())
        .unwrap_or_else(|| panic!("{found:?}"));
    assert_eq!(
        found,
        value(number, version),
        "{} has a value that nobody wrote",
        key(number)
    );
    version
}

/// Writes version 0 of `count` keys.
pub async fn fill(connection: &ClusterConnection, count: u64) {
    futures::stream::iter((0..count).map(Ok))
        .try_for_each_concurrent(IN_FLIGHT, |number| {
            let mut connection = connection.clone();
            async move {
                connection
                    .set::<_, _, ()>(key(number), value(number, 0))
                    .await
            }
        })
        .await
        .expect("every key is written");
}

/// The version of each key that is there.
pub async fn read_all(connection: &ClusterConnection, count: u64) -> BTreeMap<u64, u64> {
    futures::stream::iter(0..count)
        .map(|number| {
            let mut connection = connection.clone();
            async move {
                let found: Option<String> = connection.get(key(number)).await.expect("a read");
                found.map(|text| (number, version(number, &text)))
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .filter_map(async |found| found)
        .collect()
        .await
}

/// Version 0 of every key is there.
pub async fn verify_filled(connection: &ClusterConnection, count: u64) {
    let found = read_all(connection, count).await;
    let lost: Vec<u64> = (0..count).filter(|n| !found.contains_key(n)).collect();
    assert!(lost.is_empty(), "lost keys: {lost:?}");
    assert!(found.values().all(|v| *v == 0), "old or foreign values");
}

/// Keys over all primaries, as each counts its own.
pub async fn count(connection: &ClusterConnection) -> u64 {
    redis::cmd("DBSIZE")
        .query_async(&mut connection.clone())
        .await
        .expect("DBSIZE")
}

#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// The last acknowledged version of each key.
    pub acknowledged: BTreeMap<u64, u64>,
    /// The last version that was tried and not acknowledged after that: it may be there or not.
    pub tried: BTreeMap<u64, u64>,
    pub errors: Vec<String>,
}

/// Writers that overwrite `count` keys again and again, each its own part; each also reads what it wrote.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub writes: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Tally>>,
}

impl Load {
    pub fn start(connection: &ClusterConnection, count: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        let tasks = (0..WRITERS)
            .map(|writer| {
                let numbers = (writer..count)
                    .step_by(usize::try_from(WRITERS).expect("few"))
                    .collect();
                tokio::spawn(write_on(
                    connection.clone(),
                    numbers,
                    stop.clone(),
                    writes.clone(),
                ))
            })
            .collect();
        Load {
            stop,
            writes,
            tasks,
        }
    }

    /// Waits until the writers got through that many more writes.
    pub async fn progress(&self, more: u64) {
        let begun = Instant::now();
        let goal = self.writes.load(Ordering::Relaxed) + more;
        while self.writes.load(Ordering::Relaxed) < goal {
            assert!(begun.elapsed() < PATIENCE, "no write gets through");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for task in self.tasks {
            let tally = task.await.expect("no writer panics");
            all.acknowledged.extend(tally.acknowledged);
            all.tried.extend(tally.tried);
            all.errors.extend(tally.errors);
        }
        all
    }
}

async fn write_on(
    mut connection: ClusterConnection,
    numbers: Vec<u64>,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
) -> Tally {
    let mut tally = Tally::default();
    for round in 1.. {
        for number in &numbers {
            if stop.load(Ordering::Relaxed) {
                return tally;
            }
            match connection
                .set::<_, _, ()>(key(*number), value(*number, round))
                .await
            {
                Ok(()) => {
                    tally.acknowledged.insert(*number, round);
                    tally.tried.remove(number);
                    writes.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    tally.tried.insert(*number, round);
                    tally.errors.push(error.to_string());
                }
            }
        }
    }
    tally
}

impl Tally {
    /// Keys whose acknowledged version is not there any more.
    pub fn lost(&self, found: &BTreeMap<u64, u64>) -> Vec<u64> {
        let is_lost = |(number, version): &(&u64, &u64)| {
            found
                .get(number)
                .is_none_or(|there| there < version && Some(there) != self.tried.get(number))
        };
        self.acknowledged
            .iter()
            .filter(is_lost)
            .map(|(number, _)| *number)
            .collect()
    }

    pub fn assert_nothing_lost(&self, found: &BTreeMap<u64, u64>) {
        let lost = self.lost(found);
        let told: Vec<String> = lost
            .iter()
            .take(5)
            .map(|n| {
                format!(
                    "{}: version {} acknowledged, {:?} found",
                    key(*n),
                    self.acknowledged[n],
                    found.get(n)
                )
            })
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged writes are lost: {told:#?}; errors: {:?}",
            lost.len(),
            self.acknowledged.len(),
            self.errors.first()
        );
    }
}
