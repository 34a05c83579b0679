//! The control port: who is let in, what is answered, what is pushed.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache_node::cluster::state::NodeState;
use cache_node::store::effect::write_command;
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn new(node: &TestNode) -> Self {
        let stream = TcpStream::connect(node.control).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    fn known(node: &TestNode) -> Self {
        let mut client = Self::new(node);
        assert_eq!(client.ask(&["AUTH", PASSWORD]), "+OK");
        client
    }

    fn send(&mut self, command: &[&str]) {
        let words: Vec<&[u8]> = command.iter().map(|w| w.as_bytes()).collect();
        let mut bytes = Vec::new();
        write_command(&mut bytes, &words);
        self.stream.write_all(&bytes).unwrap();
    }

    /// A line, without its end. None: the connection was closed.
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).unwrap() {
                0 => return None,
                n => self.buffer.extend_from_slice(&piece[..n]),
            }
        }
    }

    /// The first line of a reply, or the text of a bulk.
    fn reply(&mut self) -> String {
        let line = self.line().expect("a reply");
        match line.strip_prefix('$') {
            Some("-1") | None => line,
            Some(_) => self.line().expect("a bulk"),
        }
    }

    fn ask(&mut self, command: &[&str]) -> String {
        self.send(command);
        self.reply()
    }

    fn push(&mut self) -> NodeState {
        assert_eq!(self.line().as_deref(), Some(">2"));
        assert_eq!(self.reply(), "node.state");
        serde_json::from_str(&self.reply()).unwrap()
    }
}

fn alone() -> Arc<TestNode> {
    let node = Arc::new(TestNode::start("m-0-0"));
    node.push(&Topology::new(1).shard("0", ALL, &[&node]).bootstrap());
    node
}

#[test]
fn nothing_is_answered_without_the_password() {
    let node = alone();
    let mut client = Client::new(&node);
    for command in [
        &["PING"][..],
        &["INFO"],
        &["CACHE.NODE", "HELLO"],
        &["CACHE.NODE", "SYNC", "{}"],
        &["HELLO", "3"],
    ] {
        assert!(client.ask(command).starts_with("-NOAUTH"), "{command:?}");
    }
    for wrong in [
        &["AUTH", "x"][..],
        &["AUTH", "user", PASSWORD],
        &["AUTH"],
        &["HELLO", "3", "AUTH", "default", "x"],
    ] {
        assert!(client.ask(wrong).starts_with("-WRONGPASS"), "{wrong:?}");
    }
    assert!(client.ask(&["CACHE.NODE", "HELLO"]).starts_with("-NOAUTH"));
    assert_eq!(client.ask(&["AUTH", "default", PASSWORD]), "+OK");
    assert_eq!(client.ask(&["PING"]), "+PONG");
    assert_eq!(client.ask(&["CLIENT", "SETINFO", "LIB-NAME", "x"]), "+OK");
    let state: NodeState = serde_json::from_str(&client.ask(&["CACHE.NODE", "HELLO"])).unwrap();
    assert_eq!((state.member.as_str(), state.epoch), ("m-0-0", 1));
    assert_eq!(client.ask(&["QUIT"]), "+OK");
    assert_eq!(client.line(), None);
}

#[test]
fn no_application_command_exists_here() {
    let node = alone();
    let mut client = Client::known(&node);
    for command in [
        &["GET", "k"][..],
        &["SET", "k", "v"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
        &["CACHE.NODE"],
        &["CACHE.NODE", "HELLO", "x"],
    ] {
        assert!(client.ask(command).starts_with("-ERR"), "{command:?}");
    }
}

#[test]
fn what_is_too_long_or_no_resp_ends_the_connection() {
    let node = alone();
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"*1\r\n$5000\r\n",
        b"*1000\r\n",
        b"*1\r\n$-5\r\n",
    ] {
        let mut client = Client::new(&node);
        client.stream.write_all(bytes).unwrap();
        assert!(client.line().unwrap().starts_with("-ERR Protocol error"));
        assert_eq!(client.line(), None);
    }
    // Known clients may send whole topologies.
    let mut client = Client::known(&node);
    assert!(
        client
            .ask(&["CACHE.NODE", "TOPOLOGY", "SET", &"x".repeat(1 << 20)])
            .starts_with("-BADTOPOLOGY")
    );
    assert_eq!(client.ask(&["PING"]), "+PONG");
}

#[test]
fn changes_are_pushed_at_once_and_heartbeats_else() {
    let node = alone();
    let mut client = Client::known(&node);
    assert!(
        client
            .ask(&["CACHE.NODE", "WATCH"])
            .starts_with("-ERR WATCH pushes")
    );
    assert!(!node.cluster.is_watched());
    assert_eq!(client.ask(&["HELLO", "3"]), "%6");
    while !client.line().unwrap().starts_with("*0") {}
    let state: NodeState = serde_json::from_str(&client.ask(&["CACHE.NODE", "WATCH"])).unwrap();
    assert_eq!(state.epoch, 1);
    assert!(node.cluster.is_watched());
    let begun = Instant::now();
    node.push(&Topology::new(2).shard("0", ALL, &[&node]));
    while client.push().epoch != 2 {}
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    // Nothing changes: still it is heard from every second.
    let begun = Instant::now();
    for _ in 0..2 {
        client.push();
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
    // Other commands go on between pushes.
    client.send(&["PING"]);
    let mut line = client.line().unwrap();
    while line != "+PONG" {
        line = client.line().unwrap();
    }
    drop(client);
    wait_until("the watch's end is noticed", || !node.cluster.is_watched());
}

#[test]
fn a_stopping_primary_gives_the_operator_time_to_hand_over() {
    let (a, b) = (
        Arc::new(TestNode::start("m-0-0")),
        Arc::new(TestNode::start("m-0-1")),
    );
    let first = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&first);
    b.push(&first);
    wait_until("it is synced", || {
        a.state().replicas.iter().any(|r| r.synced)
    });
    let mut operator = Client::known(&a);
    operator.ask(&["HELLO", "3"]);
    while !operator.line().unwrap().starts_with("*0") {}
    operator.ask(&["CACHE.NODE", "WATCH"]);
    let cluster = a.cluster.clone();
    let stop = a.spawn(async move {
        cache_node::lifecycle::shutdown(&cluster, Duration::from_secs(20)).await;
    });
    while !operator.push().stopping {}
    assert!(a.cluster.readiness().is_err());
    a.ask(&["HANDOVER", "m-0-1", "5000"]).unwrap();
    let next = Topology::new(2).shard("0", ALL, &[&b, &a]);
    b.push(&next);
    a.push(&next);
    a.block_on(stop).unwrap();
    // The operator's topology stands; the node made none of its own.
    assert_eq!((a.state().epoch, b.state().epoch), (2, 2));
    assert_eq!(b.serving().len(), 16_384);
}

#[test]
fn an_operator_that_does_nothing_is_not_waited_for_long() {
    let (a, b) = (
        Arc::new(TestNode::start("m-0-0")),
        Arc::new(TestNode::start("m-0-1")),
    );
    let first = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&first);
    b.push(&first);
    wait_until("it is synced", || {
        a.state().replicas.iter().any(|r| r.synced)
    });
    let mut operator = Client::known(&a);
    operator.ask(&["HELLO", "3"]);
    while !operator.line().unwrap().starts_with("*0") {}
    operator.ask(&["CACHE.NODE", "WATCH"]);
    let begun = Instant::now();
    a.block_on(cache_node::lifecycle::shutdown(
        &a.cluster,
        Duration::from_secs(4),
    ));
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(4));
    assert_eq!((b.state().epoch, b.serving().len()), (2, 16_384));
}

#[test]
fn a_handover_that_the_operator_has_begun_is_left_to_it() {
    let (a, b) = (
        Arc::new(TestNode::start("m-0-0")),
        Arc::new(TestNode::start("m-0-1")),
    );
    let first = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&first);
    b.push(&first);
    wait_until("it is synced", || {
        a.state().replicas.iter().any(|r| r.synced)
    });
    let mut operator = Client::known(&a);
    operator.ask(&["HELLO", "3"]);
    while !operator.line().unwrap().starts_with("*0") {}
    operator.ask(&["CACHE.NODE", "WATCH"]);
    a.ask(&["HANDOVER", "m-0-1", "60000"]).unwrap();
    let cluster = a.cluster.clone();
    let begun = Instant::now();
    let stop = a.spawn(async move {
        cache_node::lifecycle::shutdown(&cluster, Duration::from_secs(12)).await;
    });
    // Longer than an operator is waited for that does nothing.
    wait_until("6 s are over", || {
        begun.elapsed() > Duration::from_millis(6_300)
    });
    assert!(!stop.is_finished() && a.state().writes_paused);
    assert_eq!((a.state().epoch, b.state().epoch), (1, 1));
    let next = Topology::new(2).shard("0", ALL, &[&b, &a]);
    b.push(&next);
    a.push(&next);
    a.block_on(stop).unwrap();
    assert_eq!((a.state().epoch, b.serving().len()), (2, 16_384));
}

#[test]
fn slots_with_keys_are_counted() {
    let node = alone();
    assert_eq!(node.ask(&["SLOTSTATS"]).as_deref(), Ok("[]"));
    assert!(
        node.try_write(b"foo", Some(b"bar"), None) && node.try_write(b"{foo}2", Some(b"bar"), None)
    );
    let stats: Vec<(u16, u64, u64)> =
        serde_json::from_str(&node.ask(&["SLOTSTATS"]).unwrap()).unwrap();
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].0, stats[0].1), (12_182, 2));
    assert!(stats[0].2 >= 14);
}
