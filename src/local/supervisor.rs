//! Keeps the member processes running, as a kubelet does its containers: started when asked, started again when they
//! exit by themselves (their memory is empty then), stopped gracefully when told.
//!
//! It outlives the local loop, as the data plane outlives the operator. All processes are spawned by one thread of its
//! own, because the kernel ties their lives to the thread that spawned them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::die_with_parent::die_with_parent;

/// Between the exit of a process and its next start; doubles up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A process that lived this long starts again without delay.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// A process to keep running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Unique among all Caches of the state directory: `<cache>/<member>`.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Both output streams are appended here.
    pub log: PathBuf,
    /// Where the process ID is kept for the clean-up after a killed run.
    pub pid_file: PathBuf,
    /// Told again in its state; for the caller's own use.
    pub label: String,
}

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessState {
    /// `None` while it is not running.
    pub pid: Option<u32>,
    pub restarts: u32,
    /// Grows with each start of any process: tells one process from the next of the same name.
    pub incarnation: u32,
    /// Of the spec that it was started from.
    pub label: String,
    /// How it ended last, in words.
    pub last_exit: Option<String>,
}

pub type Processes = BTreeMap<String, ProcessState>;

enum Order {
    Ensure(ProcessSpec),
    Stop {
        name: String,
        grace: Duration,
        then: Option<ProcessSpec>,
        done: oneshot::Sender<()>,
    },
    Signal {
        name: String,
        signal: Signal,
    },
    Hold {
        name: String,
        held: bool,
    },
}

/// The handle; dropping it kills every process.
pub struct Supervisor {
    orders: Option<mpsc::UnboundedSender<Order>>,
    states: watch::Receiver<Processes>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Supervisor {
    pub fn start() -> anyhow::Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let (states, seen) = watch::channel(Processes::new());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, supervise(received, states));
            })?;
        Ok(Supervisor {
            orders: Some(orders),
            states: seen,
            thread: Some(thread),
        })
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Fails only when the thread ended, which it does not before this handle does.
            let _ = orders.send(order);
        }
    }

    /// Starts the process unless one of this name is kept already.
    pub fn ensure(&self, spec: ProcessSpec) {
        self.order(Order::Ensure(spec));
    }

    /// SIGTERM, after `grace` SIGKILL; returns when it has ended and will not start again.
    pub async fn stop(&self, name: &str, grace: Duration) {
        let (done, ended) = oneshot::channel();
        self.order(Order::Stop {
            name: name.to_string(),
            grace,
            then: None,
            done,
        });
        // An error means that the supervisor itself ended, and with it the process.
        let _ = ended.await;
    }

    /// As [`Supervisor::stop`], without waiting.
    pub fn remove(&self, name: &str, grace: Duration) {
        let (done, _) = oneshot::channel();
        self.order(Order::Stop {
            name: name.to_string(),
            grace,
            then: None,
            done,
        });
    }

    /// Stops the process of this name and starts it again from `spec`, without waiting.
    pub fn replace(&self, spec: ProcessSpec, grace: Duration) {
        let (done, _) = oneshot::channel();
        self.order(Order::Stop {
            name: spec.name.clone(),
            grace,
            then: Some(spec),
            done,
        });
    }

    /// Sends a signal to a running process, which then starts again if it ends.
    pub fn signal(&self, name: &str, signal: Signal) {
        self.order(Order::Signal {
            name: name.to_string(),
            signal,
        });
    }

    /// While held, a process that ends is not started again.
    pub fn hold(&self, name: &str, held: bool) {
        self.order(Order::Hold {
            name: name.to_string(),
            held,
        });
    }

    /// The present states; the receiver also tells of each change.
    pub fn states(&self) -> watch::Receiver<Processes> {
        self.states.clone()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed; its processes are gone with it.
            let _ = thread.join();
        }
    }
}

enum Told {
    Stop {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
    Signal(Signal),
}

struct Kept {
    told: mpsc::UnboundedSender<Told>,
    held: watch::Sender<bool>,
}

async fn supervise(mut orders: mpsc::UnboundedReceiver<Order>, states: watch::Sender<Processes>) {
    let states = std::rc::Rc::new(states);
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    let mut keepers = tokio::task::JoinSet::new();
    let starts = std::rc::Rc::new(std::cell::Cell::new(0));
    let mut begin = |kept: &mut BTreeMap<String, Kept>, spec: ProcessSpec, after| {
        while keepers.try_join_next().is_some() {}
        let (told, hears) = mpsc::unbounded_channel();
        let (held, is_held) = watch::channel(false);
        kept.insert(spec.name.clone(), Kept { told, held });
        let board = Board {
            name: spec.name.clone(),
            states: states.clone(),
            starts: starts.clone(),
        };
        keepers.spawn_local(keep(spec, hears, is_held, board, after));
    };
    while let Some(order) = orders.recv().await {
        kept.retain(|_, k| !k.told.is_closed());
        match order {
            Order::Ensure(spec) => {
                if !kept.contains_key(&spec.name) {
                    begin(&mut kept, spec, None);
                }
            }
            Order::Stop {
                name,
                grace,
                then: None,
                done,
            } => {
                if let Some(k) = kept.remove(&name) {
                    // If the keeper has ended, dropping `done` tells so.
                    let _ = k.told.send(Told::Stop { grace, done });
                }
            }
            Order::Stop {
                name,
                grace,
                then: Some(spec),
                ..
            } => {
                let (done, ended) = oneshot::channel();
                if let Some(k) = kept.remove(&name) {
                    // As above.
                    let _ = k.told.send(Told::Stop { grace, done });
                }
                begin(&mut kept, spec, Some(ended));
            }
            Order::Signal { name, signal } => {
                if let Some(k) = kept.get(&name) {
                    // As above: a keeper that ended has no process.
                    let _ = k.told.send(Told::Signal(signal));
                }
            }
            Order::Hold { name, held } => {
                if let Some(k) = kept.get(&name) {
                    k.held.send_replace(held);
                }
            }
        }
    }
    // Each keeper hears the end of its channel and kills its process.
    drop(kept);
    while keepers.join_next().await.is_some() {}
}

/// Where a process's state is told.
struct Board {
    name: String,
    states: std::rc::Rc<watch::Sender<Processes>>,
    starts: std::rc::Rc<std::cell::Cell<u32>>,
}

impl Board {
    fn note(&self, change: impl FnOnce(&mut ProcessState)) {
        self.states
            .send_modify(|all| change(all.entry(self.name.clone()).or_default()));
    }

    /// Before the start, so that whatever the process says is heard after it is counted.
    fn count_start(&self) {
        self.starts.set(self.starts.get() + 1);
        self.note(|s| s.incarnation = self.starts.get());
    }

    fn clear(&self) {
        self.states.send_modify(|all| {
            all.remove(&self.name);
        });
    }
}

/// Runs one process again and again until told to stop.
async fn keep(
    spec: ProcessSpec,
    mut told: mpsc::UnboundedReceiver<Told>,
    mut held: watch::Receiver<bool>,
    board: Board,
    after: Option<oneshot::Receiver<()>>,
) {
    if let Some(predecessor) = after {
        // An error means that there was none, or that it has ended.
        let _ = predecessor.await;
    }
    let mut backoff = BACKOFF_MIN;
    let stopped = loop {
        let begun = Instant::now();
        board.count_start();
        match spawn(&spec) {
            Ok(mut child) => {
                board.note(|s| {
                    s.pid = child.id();
                    s.label.clone_from(&spec.label);
                });
                let (status, stop) = watch_child(&mut child, &mut told).await;
                board.note(|s| {
                    s.pid = None;
                    s.last_exit = Some(describe(&status));
                });
                if let Some(done) = stop {
                    break Some(done);
                }
            }
            Err(error) => {
                let text = format!("{error:#}");
                tracing::error!(process = spec.name, "not started: {text}");
                board.note(|s| s.last_exit = Some(text));
            }
        }
        backoff = if begun.elapsed() >= STABLE_AFTER {
            BACKOFF_MIN
        } else {
            (backoff * 2).min(BACKOFF_MAX)
        };
        if let Some(stop) = rest(backoff, &mut told, &mut held).await {
            break stop;
        }
        board.note(|s| s.restarts += 1);
    };
    board.clear();
    // The next start must not take this file for a process that was left.
    let _ = std::fs::remove_file(&spec.pid_file);
    if let Some(done) = stopped {
        // Whoever asked may have stopped waiting.
        let _ = done.send(());
    }
}

/// Waits out the backoff and, after that, a hold. `Some` if told to stop meanwhile, `Some(None)` if the supervisor went.
async fn rest(
    backoff: Duration,
    told: &mut mpsc::UnboundedReceiver<Told>,
    held: &mut watch::Receiver<bool>,
) -> Option<Option<oneshot::Sender<()>>> {
    let pause = async {
        tokio::time::sleep(backoff).await;
        // An error means that the supervisor ended; the task ends with it.
        let _ = held.wait_for(|held| !held).await;
    };
    tokio::pin!(pause);
    loop {
        tokio::select! {
            () = &mut pause => return None,
            order = told.recv() => match order {
                Some(Told::Stop { done, .. }) => return Some(Some(done)),
                Some(Told::Signal(_)) => {}
                None => return Some(None),
            },
        }
    }
}

/// Waits for the child's end, carrying out what is told meanwhile.
async fn watch_child(
    child: &mut tokio::process::Child,
    told: &mut mpsc::UnboundedReceiver<Told>,
) -> (std::io::Result<ExitStatus>, Option<oneshot::Sender<()>>) {
    let mut kill_at: Option<Instant> = None;
    let mut stop = None;
    loop {
        let deadline = async {
            match kill_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = child.wait() => return (status, stop),
            () = deadline => {
                kill_at = None;
                send(child, Signal::KILL);
            }
            // Once told to stop nothing more is told, and the channel's end means nothing.
            order = told.recv(), if stop.is_none() => match order {
                Some(Told::Signal(signal)) => send(child, signal),
                Some(Told::Stop { grace, done }) => {
                    stop = Some(done);
                    kill_at = Some(Instant::now() + grace);
                    send(child, Signal::TERM);
                }
                None => {
                    // The supervisor goes, and takes its processes along.
                    send(child, Signal::KILL);
                    return (child.wait().await, Some(oneshot::channel().0));
                }
            },
        }
    }
}

fn send(child: &tokio::process::Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        // The child is not reaped yet, so the ID is still its own; an error means that it has just ended.
        let _ = kill_process(pid, signal);
    }
}

fn spawn(spec: &ProcessSpec) -> anyhow::Result<tokio::process::Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("opening its log {}", spec.log.display()))?;
    let mut command = std::process::Command::new(&spec.program);
    command
        .args(&spec.args)
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    die_with_parent(&mut command);
    // A Ctrl-C at the terminal is for us: we stop the children in our own order.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", spec.program.display()))?;
    if let Some(pid) = child.id() {
        std::fs::write(&spec.pid_file, pid.to_string())
            .with_context(|| format!("writing {}", spec.pid_file.display()))?;
    }
    Ok(child)
}

fn describe(status: &std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end could not be seen: {error}"),
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
