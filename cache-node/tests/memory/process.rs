//! A cache-node process under test and a client of it that sends in batches.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Commands sent before their replies are read.
pub const PIPELINE: usize = 256;

pub struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    pub fn start(limit: u64, policy: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cache-node"));
        command.args(["--port", "0", "--log-format", "json"]);
        command.args(["--max-memory", &limit.to_string()]);
        if let Some(policy) = policy {
            command.args(["--max-memory-policy", policy]);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let ready = line["fields"]["message"] == "ready for connections";
            let address = line["fields"]["address"].as_str().filter(|_| ready)?;
            address.parse().ok()
        });
        // What else it says is not kept, but read, so that it never waits.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: address.expect("it says where it listens"),
        }
    }

    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kb = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kb.unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of a batch.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcome {
    pub refused: usize,
    /// Sum of integer replies.
    pub sum: u64,
}

pub struct Client {
    reader: BufReader<TcpStream>,
    batch: Vec<u8>,
    waiting: usize,
    outcome: Outcome,
}

impl Client {
    pub fn connect(process: &Process) -> Self {
        let stream = TcpStream::connect(process.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self {
            reader: BufReader::new(stream),
            batch: Vec::new(),
            waiting: 0,
            outcome: Outcome::default(),
        }
    }

    pub fn send(&mut self, words: &[&[u8]]) {
        write!(self.batch, "*{}\r\n", words.len()).unwrap();
        for word in words {
            write!(self.batch, "${}\r\n", word.len()).unwrap();
            self.batch.extend_from_slice(word);
            self.batch.extend_from_slice(b"\r\n");
        }
        self.waiting += 1;
        if self.waiting == PIPELINE {
            self.flush();
        }
    }

    /// Sends what is left and gives what became of all since the last call.
    pub fn flush(&mut self) -> Outcome {
        self.reader.get_mut().write_all(&self.batch).unwrap();
        self.batch.clear();
        let mut line = String::new();
        for _ in 0..std::mem::take(&mut self.waiting) {
            line.clear();
            self.reader.read_line(&mut line).unwrap();
            match line.split_at(1) {
                ("+", _) => {}
                (":", n) => self.outcome.sum += n.trim_end().parse::<u64>().unwrap(),
                ("-", text) if text.starts_with("OOM") => self.outcome.refused += 1,
                _ => panic!("{line}"),
            }
        }
        self.outcome
    }

    pub fn take(&mut self) -> Outcome {
        self.flush();
        std::mem::take(&mut self.outcome)
    }

    pub fn info(&mut self, field: &str) -> u64 {
        let stream = self.reader.get_mut();
        stream.write_all(b"INFO\r\n").unwrap();
        let mut length = String::new();
        self.reader.read_line(&mut length).unwrap();
        let length: usize = length[1..].trim_end().parse().unwrap();
        let mut text = vec![0; length + 2];
        self.reader.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let value = text.lines().find_map(|l| {
            let (name, value) = l.split_once(':')?;
            (name == field).then(|| value.to_owned())
        });
        value.unwrap_or_else(|| panic!("{field}")).parse().unwrap()
    }
}
