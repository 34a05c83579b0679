//! A client that sees everything: replies as they are on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cache_node::config::Config;
use cache_node::node::Node;
use cache_node::server::Server;
use cache_node::store::effect::write_command;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A reply of either version of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// `+`, `-`, `:`, `,`, `#`, `_` and `(`: the whole line.
    Line(String),
    /// None: `$-1`.
    Bulk(Option<Vec<u8>>),
    Verbatim(Vec<u8>),
    /// `*`, `~`, `%`, `>`; None: `*-1`.
    Many(u8, Option<Vec<Reply>>),
}

impl Reply {
    pub fn text(&self) -> String {
        match self {
            Self::Line(line) => line.clone(),
            Self::Bulk(Some(bytes)) | Self::Verbatim(bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            other => format!("{other:?}"),
        }
    }

    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Many(_, Some(items)) => items,
            other => panic!("{other:?} has no items"),
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Line(line) if line.starts_with('-'))
    }
}

pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            at: 0,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a command of words and waits for its reply.
    pub fn ask(&mut self, command: &str) -> Reply {
        let words: Vec<&[u8]> = command.split_whitespace().map(str::as_bytes).collect();
        self.ask_words(&words)
    }

    pub fn ask_words(&mut self, words: &[&[u8]]) -> Reply {
        let mut bytes = Vec::new();
        write_command(&mut bytes, words);
        self.send(&bytes);
        self.reply().expect("a reply")
    }

    /// The next reply; None: the connection ended.
    pub fn reply(&mut self) -> Option<Reply> {
        let line = self.line()?;
        let kind = line.as_bytes()[0];
        let length = || line[1..].parse::<i64>().unwrap();
        Some(match kind {
            b'$' if length() < 0 => Reply::Bulk(None),
            b'$' => Reply::Bulk(Some(self.body(length() as usize)?)),
            b'=' => Reply::Verbatim(self.body(length() as usize)?),
            b'*' | b'~' | b'%' | b'>' if length() < 0 => Reply::Many(kind, None),
            b'*' | b'~' | b'%' | b'>' => {
                let count = length() * if kind == b'%' { 2 } else { 1 };
                let items = (0..count).map(|_| self.reply());
                Reply::Many(kind, Some(items.collect::<Option<_>>()?))
            }
            _ => Reply::Line(line),
        })
    }

    fn line(&mut self) -> Option<String> {
        let mut from = self.at;
        loop {
            let end = self.buffer[from..].windows(2).position(|w| w == b"\r\n");
            if let Some(end) = end {
                let line = self.buffer[self.at..from + end].to_vec();
                self.at = from + end + 2;
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            from = self.buffer.len().saturating_sub(1).max(self.at);
            let before = self.at;
            self.more()?;
            from -= before - self.at;
        }
    }

    fn body(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() - self.at < length + 2 {
            self.more()?;
        }
        let body = self.buffer[self.at..self.at + length].to_vec();
        self.at += length + 2;
        Some(body)
    }

    fn more(&mut self) -> Option<()> {
        if self.at > 1 << 20 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        let mut piece = vec![0; 256 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => None,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                Some(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no reply: {error}"),
        }
    }

    /// Everything until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more().is_some() {}
        self.buffer.split_off(self.at)
    }
}

/// A node in this process.
pub struct TestNode {
    pub node: Arc<Node>,
    server: Option<Server>,
    pub address: SocketAddr,
}

impl TestNode {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::plain();
        config.port = 0;
        config.threads = Some(2);
        change(&mut config);
        config.validate().unwrap();
        let node = Arc::new(Node::new(config).unwrap());
        let server = Server::start(&node).unwrap();
        let address = server.address();
        Self {
            node,
            server: Some(server),
            address,
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn drain(&mut self) {
        if let Some(server) = self.server.take() {
            server.drain();
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.drain();
    }
}

/// Waits for a condition.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            std::time::Instant::now() < end,
            "waited too long for {what}"
        );
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A process that ends with its test.
pub struct Child(pub std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connections that ask for several keys over and over, which must be equal each time.
pub struct EqualReaders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl EqualReaders {
    pub fn start(address: SocketAddr, connections: usize, question: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) || seen == 0 {
                    let reply = client.ask(question);
                    let values: Vec<String> = reply.items().iter().map(Reply::text).collect();
                    assert!(values.iter().all(|v| *v == values[0]), "{values:?}");
                    seen += 1;
                }
            })
        };
        Self {
            threads: (0..connections).map(reader).collect(),
            stop,
        }
    }

    /// Each has read at least once.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|t| t.join().unwrap());
    }
}
