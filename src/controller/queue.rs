//! What is to be reconciled when: each key at most once at a time, as soon as it is asked for or its timer ends. Timers are in memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::platform::CacheKey;

/// Keys that wait for their turn.
#[derive(Debug, Default)]
struct Due {
    at: BTreeMap<CacheKey, Instant>,
    running: BTreeSet<CacheKey>,
}

impl Due {
    /// The earlier of two appointments holds.
    fn ask(&mut self, key: CacheKey, at: Instant) {
        let appointed = self.at.entry(key).or_insert(at);
        *appointed = (*appointed).min(at);
    }

    /// The key whose turn is next, and when; not one that runs.
    fn next(&self) -> Option<(&CacheKey, Instant)> {
        let idle = self
            .at
            .iter()
            .filter(|(key, _)| !self.running.contains(*key));
        idle.min_by_key(|(_, at)| **at).map(|(key, at)| (key, *at))
    }

    fn start(&mut self, now: Instant) -> Option<CacheKey> {
        let key = self.next().filter(|(_, at)| *at <= now)?.0.clone();
        self.at.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn end(&mut self, key: CacheKey, again: Option<Instant>) {
        self.running.remove(&key);
        if let Some(at) = again {
            self.ask(key, at);
        }
    }
}

/// Runs `work` for the keys that are asked for, until `stop`; then waits for what runs. Work answers when to do it again without being asked.
/// Until `begin` resolves nothing is done, but what is asked for is kept.
pub async fn run<Work, Done>(
    mut asked: UnboundedReceiver<CacheKey>,
    concurrency: usize,
    begin: impl Future<Output = ()>,
    stop: impl Future<Output = ()>,
    work: Work,
) where
    Work: Fn(CacheKey) -> Done,
    Done: Future<Output = Option<Duration>> + Send + 'static,
{
    let mut due = Due::default();
    let mut running: JoinSet<(CacheKey, Option<Duration>)> = JoinSet::new();
    let mut begin = std::pin::pin!(begin.fuse());
    let mut stop = std::pin::pin!(stop);
    let mut begun = false;
    loop {
        while begun && running.len() < concurrency {
            let Some(key) = due.start(Instant::now()) else {
                break;
            };
            let done = work(key.clone());
            running.spawn(async move {
                // A panic in a round must not end the operator, nor lose the key.
                let done = std::panic::AssertUnwindSafe(done).catch_unwind().await;
                let again = done.unwrap_or_else(|_| {
                    tracing::error!(%key, "a round panicked; it is tried again");
                    Some(Duration::from_secs(10))
                });
                (key, again)
            });
        }
        let next = due.next().map(|(_, at)| at);
        let idle = begun && running.len() < concurrency;
        tokio::select! {
            () = &mut stop => break,
            () = &mut begin, if !begun => begun = true,
            key = asked.recv() => match key {
                Some(key) => due.ask(key, Instant::now()),
                None => break,
            },
            Some(done) = running.join_next() => {
                if let Ok((key, again)) = done {
                    due.end(key, again.map(|wait| Instant::now() + wait));
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if idle && next.is_some() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::sync::{Notify, oneshot};

    fn key(name: &str) -> CacheKey {
        CacheKey::new("n", name)
    }

    #[tokio::test(start_paused = true)]
    async fn asked_while_it_runs_it_runs_once_more() {
        let (ask, asked) = unbounded_channel();
        let (started, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let runs = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel::<()>();
        let work = {
            let (started, done, runs) = (started.clone(), done.clone(), runs.clone());
            move |_| {
                let (started, done, runs) = (started.clone(), done.clone(), runs.clone());
                async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    started.notify_one();
                    done.notified().await;
                    None
                }
            }
        };
        let queue = tokio::spawn(run(
            asked,
            4,
            async {},
            async { stopped.await.unwrap_or(()) },
            work,
        ));
        ask.send(key("a")).unwrap();
        started.notified().await;
        ask.send(key("a")).unwrap();
        ask.send(key("a")).unwrap();
        ask.send(key("b")).unwrap();
        started.notified().await;
        assert_eq!(runs.load(Ordering::SeqCst), 2, "a and b, each once");
        done.notify_one();
        done.notify_one();
        started.notified().await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        done.notify_one();
        done.notify_one();
        stop.send(()).unwrap();
        queue.await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn comes_again_after_its_timer_and_not_before_the_beginning() {
        let (ask, asked) = unbounded_channel();
        let times = Arc::new(std::sync::Mutex::new(Vec::new()));
        let start = Instant::now();
        let work = {
            let times = times.clone();
            move |_| {
                times.lock().unwrap().push(start.elapsed().as_secs());
                async { Some(Duration::from_secs(10)) }
            }
        };
        ask.send(key("a")).unwrap();
        let begin = tokio::time::sleep(Duration::from_secs(3));
        let stop = tokio::time::sleep(Duration::from_secs(30));
        run(asked, 1, begin, stop, work).await;
        assert_eq!(*times.lock().unwrap(), [3, 13, 23]);
    }
}
