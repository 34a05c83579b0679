//! One server thread: its connections, each run to completion when it is ready.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;

use super::clock::Clock;
use super::connection::Connection;
use super::mail::Post;
use super::registry::Client;
use super::turn::{Arrived, Tools, Turn};
use crate::command::{Ahead, Reason, Session};
use crate::limits::{CONNECTIONS_TOGETHER, DRAIN_MS, READ_MAX};
use crate::metrics::stats::ThreadStats;
use crate::node::{Node, now_ms};
use crate::protocol::Output;

const WAKER: Token = Token(0);
const EVENTS: usize = 1024;

/// Room that is left for a connection's arrivals at least.
const ROOM: usize = READ_MAX / 4;

/// Where in the thread's arrivals those of a connection are.
#[derive(Debug, Clone, Copy)]
struct ArrivedAt {
    key: usize,
    start: usize,
    end: usize,
    /// If it is one whole command: which of the singles.
    single: Option<usize>,
}

/// Connections that a thread is given.
pub struct Inbox {
    waker: Arc<Waker>,
    arrived: Mutex<Vec<(TcpStream, Arc<Client>)>>,
    /// Connections of the thread, those that it has not taken yet included.
    open: AtomicUsize,
}

impl Inbox {
    /// Connections that the thread has.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn put(&self, stream: TcpStream, client: Arc<Client>) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.arrived.lock().push((stream, client));
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "cannot wake a server thread");
        }
    }
}

/// See the module's text.
pub struct Thread {
    node: Arc<Node>,
    stats: Arc<ThreadStats>,
    poll: Poll,
    inbox: Arc<Inbox>,
    connections: Slab<Connection>,
    /// Connections that have something to do.
    ready: VecDeque<usize>,
    scratch: Vec<u8>,
    spare: Output,
    ahead: Ahead,
    /// What was received for several connections before their turns, whose it is, and the commands of those that have sent just one.
    arrivals: Vec<u8>,
    arrived: Vec<ArrivedAt>,
    singles: Ahead,
    /// Which connections have mail.
    post: Arc<Post>,
    /// Kills and rings that were looked at.
    kills: u64,
    rings: u64,
    /// Unix milliseconds at which a parked command's time is up.
    alarm_ms: u64,
    /// When a stopping thread closes what is left.
    deadline: Option<Instant>,
}

impl Thread {
    pub fn new(node: Arc<Node>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        node.wakers.add(waker.clone());
        let post = Arc::new(Post::new(waker.clone()));
        Ok(Self {
            stats: node.stats.thread(),
            node,
            poll,
            inbox: Arc::new(Inbox {
                waker,
                arrived: Mutex::default(),
                open: AtomicUsize::new(0),
            }),
            connections: Slab::new(),
            ready: VecDeque::new(),
            scratch: vec![0; READ_MAX],
            spare: Output::default(),
            ahead: Ahead::default(),
            arrivals: vec![0; READ_MAX],
            arrived: Vec::new(),
            singles: Ahead::default(),
            post,
            kills: 0,
            rings: 0,
            alarm_ms: u64::MAX,
            deadline: None,
        })
    }

    pub fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Runs until the node stops and the connections are drained.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "a server thread cannot wait for its connections and ends");
                    break;
                }
            }
            let mut woken = false;
            for event in &events {
                match event.token() {
                    WAKER => woken = true,
                    Token(token) => {
                        let key = token - 1;
                        if let Some(connection) = self.connections.get_mut(key) {
                            connection.notice(event);
                            enqueue(&mut self.ready, connection, key);
                        }
                    }
                }
            }
            if woken || self.alarm_ms != u64::MAX && now_ms() >= self.alarm_ms {
                self.on_wake();
            }
            if self.post.is_rung() {
                self.take_mail();
            }
            self.close_idle();
            self.run_ready();
            if self
                .deadline
                .is_some_and(|d| self.connections.is_empty() || Instant::now() >= d)
            {
                break;
            }
        }
        let left: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        left.into_iter().for_each(|key| self.close(key));
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        if let Some(deadline) = self.deadline {
            return Some(deadline.saturating_duration_since(Instant::now()));
        }
        if self.alarm_ms != u64::MAX {
            // A millisecond more: it is over then, whatever was cut off.
            let left = self.alarm_ms.saturating_sub(now_ms()) + 1;
            return Some(Duration::from_millis(left.min(1_000)));
        }
        (self.node.settings.timeout_s.load(Ordering::Relaxed) > 0).then_some(Duration::from_secs(1))
    }

    fn on_wake(&mut self) {
        let arrived = std::mem::take(&mut *self.inbox.arrived.lock());
        for (stream, client) in arrived {
            self.add(stream, client);
        }
        let kills = self.node.clients.kills.load(Ordering::Acquire);
        let look_for_killed = std::mem::replace(&mut self.kills, kills) != kills;
        let stops = self.node.is_stopping();
        if stops && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + Duration::from_millis(DRAIN_MS));
        }
        let rings = self.node.wakers.rings();
        let alarm = self.alarm_ms != u64::MAX && now_ms() >= self.alarm_ms;
        let rung = std::mem::replace(&mut self.rings, rings) != rings;
        if !(look_for_killed || stops || rung || alarm) {
            return;
        }
        if alarm {
            self.alarm_ms = u64::MAX;
        }
        let changes = self.node.wakers.changes();
        let mut killed = Vec::new();
        for (key, connection) in &mut self.connections {
            if look_for_killed && connection.is_killed() {
                killed.push(key);
            } else if stops || connection.is_woken(changes) {
                connection.unpark();
                enqueue(&mut self.ready, connection, key);
            }
        }
        killed.into_iter().for_each(|key| self.close(key));
    }

    /// Adds to the outputs of connections what others have put into their boxes.
    fn take_mail(&mut self) {
        for key in self.post.take() {
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            match connection.take_mail(&self.node) {
                true => enqueue(&mut self.ready, connection, key),
                false => self.close(key),
            }
        }
    }

    fn add(&mut self, stream: TcpStream, client: Arc<Client>) {
        let authenticated = self.node.passwords.is_none();
        let id = client.id;
        let mut connection = Connection::new(stream, Session::new(client, authenticated));
        let entry = self.connections.vacant_entry();
        let token = Token(entry.key() + 1);
        let both = Interest::READABLE | Interest::WRITABLE;
        match self
            .poll
            .registry()
            .register(connection.stream(), token, both)
        {
            Ok(()) => {
                connection.belongs_to(self.post.clone(), entry.key());
                entry.insert(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch a connection; closed it");
                self.inbox.closed();
                self.node.clients.remove(id);
            }
        }
    }

    /// Gives each connection in the queue its turn, several at a time.
    fn run_ready(&mut self) {
        let mut clock = Clock::start();
        let mut left = self.ready.len();
        while left > 0 {
            let several = left.min(CONNECTIONS_TOGETHER);
            self.receive(several);
            for i in 0..several {
                self.turn(i, &mut clock);
            }
            left -= several;
        }
    }

    /// Receives for the next connections of the queue, and fetches from memory what those need that have sent a single command each.
    /// Pipelines fetch for themselves.
    fn receive(&mut self, several: usize) {
        self.arrived.clear();
        self.singles.clear();
        let bulk_max = self.node.settings.bulk_max.load(Ordering::Relaxed) as usize;
        let mut at = 0;
        for key in self.ready.drain(..several) {
            let mut arrived = ArrivedAt {
                key,
                start: at,
                end: at,
                single: None,
            };
            // A turn that is to read much reads by itself.
            if at + ROOM <= self.arrivals.len()
                && let Some(connection) = self.connections.get_mut(key)
            {
                let room = &mut self.arrivals[at..];
                at += connection.receive(room, &self.stats);
                arrived.end = at;
                let (before, input) = (self.singles.count(), &self.arrivals[..at]);
                self.singles
                    .add(&self.node.store, input, arrived.start, 1, bulk_max);
                if self.singles.count() > before {
                    let whole = self.singles.span(before).1 == at;
                    arrived.single = whole.then_some(before);
                }
            }
            self.arrived.push(arrived);
        }
        self.singles.fetch(&self.node.store);
    }

    /// The turn of one of those that were received for.
    fn turn(&mut self, i: usize, clock: &mut Clock) {
        let ArrivedAt {
            key,
            start,
            end,
            single,
        } = self.arrived[i];
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let arrived = (end > start).then(|| Arrived {
            bytes: &self.arrivals[start..end],
            single: single.map(|s| self.singles.request(&self.arrivals, s)),
        });
        connection.queued = false;
        let mut tools = Tools {
            node: &self.node,
            stats: &self.stats,
            scratch: &mut self.scratch,
            spare: &mut self.spare,
            ahead: &mut self.ahead,
            clock,
        };
        match connection.turn(&mut tools, arrived) {
            Turn::Wait => {}
            Turn::Again => enqueue(&mut self.ready, connection, key),
            Turn::Park(Reason::NoCredit) => self.node.credit_wanted.notify_one(),
            // Whoever changes a slot's state, makes room, or serves a waiting pop wakes all threads.
            Turn::Park(Reason::SlotPaused | Reason::NoRoom | Reason::Blocked) => {}
            Turn::Park(Reason::Paused | Reason::Acks) => {
                self.alarm_ms = self.alarm_ms.min(connection.due_ms());
            }
            Turn::Close => self.close(key),
        }
    }

    /// Closes connections that have been idle for longer than the setting.
    fn close_idle(&mut self) {
        let timeout_s = self.node.settings.timeout_s.load(Ordering::Relaxed);
        if timeout_s == 0 {
            return;
        }
        let oldest = now_ms().saturating_sub(u64::from(timeout_s) * 1000);
        let idle: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, c)| c.is_idle_since(oldest))
            .map(|(key, _)| key)
            .collect();
        idle.into_iter().for_each(|key| self.close(key));
    }

    fn close(&mut self, key: usize) {
        let Some(mut connection) = self.connections.try_remove(key) else {
            return;
        };
        // The descriptor goes with the stream; a failure leaves nothing behind.
        let _ = self.poll.registry().deregister(connection.stream());
        self.inbox.closed();
        self.node.clients.remove(connection.id());
        self.node.monitors.remove(&self.node, connection.client());
    }
}

fn enqueue(ready: &mut VecDeque<usize>, connection: &mut Connection, key: usize) {
    if !std::mem::replace(&mut connection.queued, true) {
        ready.push_back(key);
    }
}
