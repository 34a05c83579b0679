//! One connection: bytes in, commands executed in order, replies out with one `writev` a batch.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::event::Event;
use mio::net::TcpStream;

use super::mail::{Mail, Post};
use super::registry::{Client, flag};
use super::turn::{Arrived, Halt, Tools, Turn, Work};
use crate::command::{Outcome, Reason, Request, Session, execute, tracking};
use crate::limits::{BUFFER_KEEP, COMMANDS_TURN, OUTPUT_MAX, OUTPUT_PAUSE, READ_TURN};
use crate::metrics::stats::ThreadStats;
use crate::node::{Node, now_ms};
use crate::protocol::{Output, Parser, Progress, Reply};
use crate::store::notify;

/// See the module's text.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    session: Session,
    parser: Parser,
    /// Received and not executed, from `input_start` on. It begins with the frame that the parser is at.
    input: Vec<u8>,
    input_start: usize,
    output: Output,
    readable: bool,
    writable: bool,
    /// The peer has closed its side: what is read ends in an end of file.
    read_closed: bool,
    ended: bool,
    failed: bool,
    parked: Option<Reason>,
    /// What had changed when its command was executed last.
    changes: u64,
    /// Unix milliseconds since when its output is beyond the soft limit.
    full_since_ms: Option<u64>,
    /// It is in its thread's queue.
    pub queued: bool,
}

impl Connection {
    pub fn new(stream: TcpStream, session: Session) -> Self {
        Self {
            stream,
            session,
            parser: Parser::default(),
            input: Vec::new(),
            input_start: 0,
            output: Output::default(),
            readable: false,
            writable: true,
            read_closed: false,
            ended: false,
            failed: false,
            parked: None,
            changes: 0,
            full_since_ms: None,
            queued: false,
        }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub fn client(&self) -> &Client {
        &self.session.client
    }

    pub fn id(&self) -> u64 {
        self.session.client.id
    }

    pub fn is_killed(&self) -> bool {
        self.session.client.killed.load(Ordering::Acquire)
    }

    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Whether a parked command is to be executed again.
    pub fn is_woken(&self, changes: u64) -> bool {
        match self.parked {
            None => false,
            Some(Reason::Blocked) => {
                let waits = |wait: &crate::command::blocking::Wait| wait.waiter.is_waiting();
                self.changes != changes || !self.session.wait.as_ref().is_some_and(waits)
            }
            Some(_) => true,
        }
    }

    pub fn unpark(&mut self) {
        self.parked = None;
    }

    pub fn is_idle_since(&self, oldest_ms: u64) -> bool {
        self.parked.is_none() && self.session.client.active_ms.load(Ordering::Relaxed) < oldest_ms
    }

    /// Whom to ring for it.
    pub fn belongs_to(&self, post: Arc<Post>, key: usize) {
        self.session.client.mail.belongs_to(post, key);
    }

    /// When its parked command's time is up, in Unix milliseconds.
    pub fn due_ms(&self) -> u64 {
        self.session.due_ms
    }

    /// Adds to its output what others have put into its box. False: it is to be closed, as it does not read what it has subscribed to.
    #[cold]
    pub fn take_mail(&mut self, node: &Node) -> bool {
        let resp3 = self.session.resp3;
        for mail in self.session.client.mail.take() {
            match mail {
                Mail::Push(body) => {
                    self.output.push_byte(if resp3 { b'>' } else { b'*' });
                    self.output.push(&body);
                }
                Mail::Plain(line) => self.output.push(&line),
                Mail::Keys(changed) => {
                    let keys: Vec<&[u8]> = changed.keys.iter().map(Vec::as_slice).collect();
                    self.output.push_byte(if resp3 { b'>' } else { b'*' });
                    self.output
                        .push(&tracking::invalidation(Some(&keys), resp3));
                }
                Mail::SlotLeft(channel) => {
                    let out = &mut self.output;
                    self.session.leave_slot(&channel, &mut Reply { out, resp3 });
                }
            }
        }
        let limit = &node.settings.pubsub_output;
        let pending = self.output.pending() as u64;
        let since = limit.is_broken(pending, self.full_since_ms, now_ms());
        self.full_since_ms = since.ok().flatten();
        if since.is_err() {
            tracing::warn!(
                client = self.id(),
                "closed a connection: it does not read its messages, {pending} bytes"
            );
        }
        since.is_ok()
    }

    /// What the kernel says, on changes only.
    pub fn notice(&mut self, event: &Event) {
        self.readable |= event.is_readable();
        self.writable |= event.is_writable();
        self.read_closed |= event.is_read_closed();
        self.failed |= event.is_error() || event.is_write_closed();
    }

    /// Executes what has arrived and what was kept, reads, sends.
    pub fn turn(&mut self, tools: &mut Tools<'_>, arrived: Option<Arrived<'_>>) -> Turn {
        if self.failed {
            return Turn::Close;
        }
        if let Some(reason) = self.parked {
            // Who waits for a key and is gone waits no more.
            let gone = reason == Reason::Blocked && self.read_closed;
            // What others have sent goes out meanwhile.
            if gone || !self.flush(tools.stats) {
                return Turn::Close;
            }
            return Turn::Park(reason);
        }
        self.changes = tools.node.wakers.changes();
        notify::set_client(self.id());
        if self.output.is_empty() {
            std::mem::swap(&mut self.output, tools.spare);
        }
        let now_ms = tools.clock.now_ms();
        let bulk_max = tools.node.settings.bulk_max.load(Ordering::Relaxed);
        self.parser.bulk_max = bulk_max as usize;
        let mut commands = COMMANDS_TURN;
        let halt = self.serve(tools, arrived, now_ms, &mut commands);
        let sent = halt != Halt::Abort && self.flush(tools.stats);
        let executed = COMMANDS_TURN - commands;
        let us = tools.clock.lap_us();
        if executed > 0 {
            tools.stats.batch(us);
        }
        let turn = match sent {
            true => self.after(halt, tools.node.is_stopping()),
            false => Turn::Close,
        };
        self.publish(now_ms, executed > 0);
        if self.output.is_empty() {
            std::mem::swap(&mut self.output, tools.spare);
        }
        turn
    }

    fn after(&mut self, halt: Halt, stopping: bool) -> Turn {
        let all_sent = self.output.is_empty();
        match halt {
            Halt::Abort => Turn::Close,
            Halt::Closing if all_sent => Turn::Close,
            Halt::NeedsInput if all_sent && (self.ended || stopping) => Turn::Close,
            Halt::Closing | Halt::NeedsInput => Turn::Wait,
            Halt::TurnOver => Turn::Again,
            // Sent meanwhile, or the next change of the socket goes on.
            Halt::OutputFull if self.output.pending() < OUTPUT_PAUSE => Turn::Again,
            Halt::OutputFull => Turn::Wait,
            // Who has closed its side is gone.
            Halt::Parked(Reason::Blocked) if stopping || self.read_closed => Turn::Close,
            Halt::Parked(reason) => {
                self.parked = Some(reason);
                Turn::Park(reason)
            }
        }
    }

    /// Receives into `room` before the connection's turn, if nothing is in the way of executing at once what comes. Gives how many bytes.
    pub fn receive(&mut self, room: &mut [u8], stats: &ThreadStats) -> usize {
        let waits = !self.readable || self.ended || self.failed || self.session.close;
        let kept = !self.input.is_empty() || !self.parser.is_at_start() || !self.output.is_empty();
        if waits || kept || self.is_parked() || !self.session.authenticated {
            return 0;
        }
        match self.stream.read(room) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                stats.input_bytes.add(count as u64);
                self.readable = count == room.len() || self.read_closed;
                return count;
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => self.readable = false,
                ErrorKind::Interrupted => {}
                _ => self.failed = true,
            },
        }
        0
    }

    /// Executes what was received before the turn; keeps what is left.
    fn execute_arrived(
        &mut self,
        tools: &mut Tools<'_>,
        arrived: Arrived<'_>,
        now_ms: u64,
        commands: &mut usize,
    ) -> Halt {
        let (used, halt) = match arrived.single {
            Some(request) => {
                let halt = self.execute_one(tools.node, tools.stats, request, now_ms);
                if matches!(halt, Some(Halt::Parked(_))) {
                    (0, halt)
                } else {
                    *commands -= 1;
                    (arrived.bytes.len(), halt)
                }
            }
            None => {
                let (used, halt) = self.execute(&mut tools.work(now_ms, commands).1, arrived.bytes);
                (used, Some(halt))
            }
        };
        self.input.extend_from_slice(&arrived.bytes[used..]);
        halt.unwrap_or(Halt::NeedsInput)
    }

    /// Executes and reads in turns until something stops it.
    fn serve(
        &mut self,
        tools: &mut Tools<'_>,
        arrived: Option<Arrived<'_>>,
        now_ms: u64,
        commands: &mut usize,
    ) -> Halt {
        if let Some(arrived) = arrived {
            let halt = self.execute_arrived(tools, arrived, now_ms, commands);
            if !matches!(halt, Halt::NeedsInput | Halt::OutputFull) {
                return halt;
            }
        }
        let mut bytes = READ_TURN;
        loop {
            if self.session.close {
                return Halt::Closing;
            }
            let halt = self.execute_kept(&mut tools.work(now_ms, commands).1);
            if halt == Halt::OutputFull
                && self.flush(tools.stats)
                && self.output.pending() < OUTPUT_PAUSE
            {
                continue;
            }
            if halt != Halt::NeedsInput {
                return halt;
            }
            if !self.readable || self.ended {
                return Halt::NeedsInput;
            }
            if bytes == 0 {
                return Halt::TurnOver;
            }
            match self.stream.read(tools.scratch) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    tools.stats.input_bytes.add(count as u64);
                    bytes = bytes.saturating_sub(count);
                    // Less than was asked for: there is no more, unless the end of file is waiting.
                    self.readable = count == tools.scratch.len() || self.read_closed;
                    let halt = self.execute_read(tools, count, now_ms, commands);
                    if !matches!(halt, Halt::NeedsInput | Halt::OutputFull) {
                        return halt;
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.readable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Halt::Abort,
                },
            }
        }
    }

    /// Executes what was kept of earlier reads.
    fn execute_kept(&mut self, work: &mut Work<'_>) -> Halt {
        if self.input_start == self.input.len() {
            return Halt::NeedsInput;
        }
        let input = std::mem::take(&mut self.input);
        let (used, halt) = self.execute(work, &input[self.input_start..]);
        self.input = input;
        self.input_start += used;
        if self.input_start == self.input.len() {
            self.input_start = 0;
            self.input.clear();
            if self.input.capacity() > BUFFER_KEEP {
                self.input = Vec::new();
            }
        } else if self.input_start > BUFFER_KEEP && self.input_start > self.input.len() / 2 {
            self.input.drain(..self.input_start);
            self.input_start = 0;
        }
        halt
    }

    /// Executes what was read into the thread's buffer, without copying it when nothing was kept; keeps what is left.
    fn execute_read(
        &mut self,
        tools: &mut Tools<'_>,
        count: usize,
        now_ms: u64,
        commands: &mut usize,
    ) -> Halt {
        let (scratch, mut work) = tools.work(now_ms, commands);
        let read = &scratch[..count];
        if self.input.is_empty() {
            let (used, halt) = self.execute(&mut work, read);
            self.input.extend_from_slice(&read[used..]);
            return halt;
        }
        let input_max = work.node.settings.input_max.load(Ordering::Relaxed);
        if (self.input.len() - self.input_start + count) as u64 > input_max {
            tracing::warn!(
                client = self.id(),
                "closed a connection: its command is longer than {input_max} bytes"
            );
            return Halt::Abort;
        }
        self.input.extend_from_slice(read);
        self.execute_kept(&mut work)
    }

    /// Executes the commands in `input` in order. Gives the bytes of those that are done, and why it stopped.
    fn execute(&mut self, work: &mut Work<'_>, input: &[u8]) -> (usize, Halt) {
        let mut at = 0;
        loop {
            // Before a password is given, each command is read under limits of its own.
            let ahead = if self.session.authenticated && self.parser.is_at_start() {
                let store = &work.node.store;
                work.ahead.read(store, input, at, self.parser.bulk_max)
            } else {
                0
            };
            let halt = if ahead > 0 {
                self.execute_ahead(work, input, ahead, &mut at)
            } else {
                self.execute_next(work, input, &mut at)
            };
            if let Some(halt) = halt {
                return (at, halt);
            }
        }
    }

    /// Executes what was read ahead.
    fn execute_ahead(
        &mut self,
        work: &mut Work<'_>,
        input: &[u8],
        count: usize,
        at: &mut usize,
    ) -> Option<Halt> {
        for i in 0..count {
            let halt = self.barred(work);
            if halt.is_some() {
                return halt;
            }
            let request = work.ahead.request(input, i);
            let end = work.ahead.span(i).1;
            let halt = self.execute_one(work.node, work.stats, request, work.now_ms);
            if matches!(halt, Some(Halt::Parked(_))) {
                return halt;
            }
            *work.commands -= 1;
            *at = end;
            if halt.is_some() {
                return halt;
            }
            if !self.session.authenticated {
                return None;
            }
        }
        None
    }

    /// Reads and executes one command, of which only a part may be there.
    fn execute_next(&mut self, work: &mut Work<'_>, input: &[u8], at: &mut usize) -> Option<Halt> {
        let halt = self.barred(work);
        if halt.is_some() {
            return halt;
        }
        let frame = &input[*at..];
        match self.parser.parse(frame, self.session.authenticated) {
            Ok(Progress::Incomplete(_)) => Some(Halt::NeedsInput),
            Ok(Progress::Nothing(length)) => {
                self.parser.next_frame();
                *at += length;
                None
            }
            Ok(Progress::Command(length)) => {
                let parser = std::mem::take(&mut self.parser);
                let request = Request::new(parser.args(frame));
                let halt = self.execute_one(work.node, work.stats, request, work.now_ms);
                self.parser = parser;
                if matches!(halt, Some(Halt::Parked(_))) {
                    return halt;
                }
                *work.commands -= 1;
                self.parser.next_frame();
                *at += length;
                halt
            }
            Err(error) => {
                let resp3 = self.session.resp3;
                let out = &mut self.output;
                Reply { out, resp3 }.error(&format!("ERR {error}"));
                self.session.close = true;
                *at = input.len();
                Some(Halt::Closing)
            }
        }
    }

    /// Why no command may be executed now, whatever it is.
    fn barred(&self, work: &Work<'_>) -> Option<Halt> {
        if self.output.pending() >= OUTPUT_PAUSE {
            return Some(Halt::OutputFull);
        }
        (*work.commands == 0).then_some(Halt::TurnOver)
    }

    /// Executes one command. Gives why none may follow. A parked one has changed nothing.
    fn execute_one(
        &mut self,
        node: &Node,
        stats: &ThreadStats,
        request: Request<'_>,
        now_ms: u64,
    ) -> Option<Halt> {
        if request.entry.is_none() && is_http(request.args.at(0)) {
            tracing::warn!(
                client = self.id(),
                "closed a connection that speaks HTTP: somebody may try to smuggle commands"
            );
            return Some(Halt::Abort);
        }
        let (session, output) = (&mut self.session, &mut self.output);
        if let Outcome::Pending(reason) = execute(node, stats, session, request, output, now_ms) {
            return Some(Halt::Parked(reason));
        }
        if self.session.client.mail.has_any() && !self.take_mail(node) {
            stats.output_closed.add(1);
            return Some(Halt::Abort);
        }
        if self.output.pending() > OUTPUT_MAX {
            stats.output_closed.add(1);
            tracing::warn!(
                client = self.id(),
                "closed a connection: its replies are beyond {OUTPUT_MAX} bytes"
            );
            return Some(Halt::Abort);
        }
        self.session.close.then_some(Halt::Closing)
    }

    /// Sends what the socket takes. False: the connection is broken.
    fn flush(&mut self, stats: &ThreadStats) -> bool {
        while self.writable && !self.output.is_empty() {
            match self.output.write_to(&mut self.stream) {
                Ok(0) => return false,
                Ok(sent) => stats.output_bytes.add(sent as u64),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    _ => return false,
                },
            }
        }
        true
    }

    /// Shows other threads how it stands.
    fn publish(&self, now_ms: u64, active: bool) {
        let client = &self.session.client;
        if active {
            client.active_ms.store(now_ms, Ordering::Relaxed);
        }
        let waiting = (self.input.len() - self.input_start) as u64;
        client.input_bytes.store(waiting, Ordering::Relaxed);
        client
            .output_bytes
            .store(self.output.pending() as u64, Ordering::Relaxed);
        // Who waits for a key is in the queues: whoever serves it takes it out there.
        let parked = self.parked.is_some() && self.session.wait.is_none();
        client.set(flag::PARKED, parked);
        self.session.publish();
    }
}

/// A browser that was made to speak to this port sends these words first.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:")
}
