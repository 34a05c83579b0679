//! Nodes as real processes on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use cache_node::cluster::state::NodeState;
use cache_node::control::resp::{Reply, take_reply};
use cache_node::store::effect::write_command;
use serde_json::{Value, json};

use super::{Listed, PASSWORD, Topology, wait_until};

pub const APP_PASSWORD: &str = "application-secret";

/// A blocking RESP2 client.
pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Client {
    pub fn connect(address: SocketAddr, password: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        let mut client = Self {
            stream,
            buffer: BytesMut::new(),
        };
        match client.ask(&[b"AUTH", password.as_bytes()])? {
            Reply::Error(text) => Err(std::io::Error::other(text)),
            _ => Ok(client),
        }
    }

    pub fn ask(&mut self, command: &[&[u8]]) -> std::io::Result<Reply> {
        let mut bytes = Vec::new();
        write_command(&mut bytes, command);
        self.stream.write_all(&bytes)?;
        loop {
            if let Some(reply) = take_reply(&mut self.buffer).map_err(std::io::Error::other)? {
                return Ok(reply);
            }
            let mut piece = [0; 16_384];
            match self.stream.read(&mut piece)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => self.buffer.extend_from_slice(&piece[..n]),
            }
        }
    }
}

pub struct Process {
    pub name: String,
    pub port: u16,
    pub control_port: u16,
    pub data_id: String,
    child: Child,
    files: tempfile::TempDir,
}

/// The address in a line of the process's log.
fn logged_port(files: &Path, message: &str) -> Option<u16> {
    let log = std::fs::read_to_string(files.join("log")).ok()?;
    let lines = log
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let mut fields = lines.map(|l| l["fields"].clone());
    let line = fields.rfind(|f| f["message"] == message)?;
    let address: SocketAddr = line["address"].as_str()?.parse().ok()?;
    Some(address.port())
}

impl Process {
    pub fn start(name: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("control"), PASSWORD).unwrap();
        std::fs::write(files.path().join("app"), APP_PASSWORD).unwrap();
        let child = spawn(name, 0, 0, files.path());
        let mut ports = None;
        wait_until("its ports are open", || {
            let port = logged_port(files.path(), "ready for connections");
            let control = logged_port(files.path(), "control port is open");
            ports = port.zip(control);
            ports.is_some()
        });
        let (port, control_port) = ports.unwrap();
        Self {
            name: name.into(),
            port,
            control_port,
            data_id: String::new(),
            child,
            files,
        }
        .ready()
    }

    fn ready(mut self) -> Self {
        wait_until("the control port answers", || self.control().is_ok());
        self.data_id = self.state().data_id;
        self
    }

    /// Another process in the place of this one: same name, ports and data directory, no data.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.name, self.port, self.control_port, self.files.path());
        wait_until("the control port answers", || self.control().is_ok());
        self.data_id = self.state().data_id;
    }

    pub fn files(&self) -> &Path {
        self.files.path()
    }

    pub fn app(&self) -> std::io::Result<Client> {
        Client::connect(([127, 0, 0, 1], self.port).into(), APP_PASSWORD)
    }

    pub fn control(&self) -> std::io::Result<Client> {
        Client::connect(([127, 0, 0, 1], self.control_port).into(), PASSWORD)
    }

    pub fn node(&self, command: &[&str]) -> Result<String, String> {
        let mut words: Vec<&[u8]> = vec![b"CACHE.NODE"];
        words.extend(command.iter().map(|w| w.as_bytes()));
        let reply = self.control().and_then(|mut c| c.ask(&words));
        match reply.map_err(|e| e.to_string())? {
            Reply::Bulk(bytes) => Ok(String::from_utf8(bytes).unwrap()),
            Reply::Simple(text) => Ok(text),
            Reply::Error(text) => Err(text),
            other => Ok(format!("{other:?}")),
        }
    }

    pub fn state(&self) -> NodeState {
        serde_json::from_str(&self.node(&["HELLO"]).unwrap()).unwrap()
    }

    pub fn push(&self, topology: &Topology) {
        let reply = self.node(&["TOPOLOGY", "SET", &topology.json()]);
        assert_eq!(reply.as_deref(), Ok("OK"), "{}", self.name);
    }

    /// SIGKILL: nothing is said to anybody.
    pub fn kill(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        let mut status = None;
        wait_until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub fn keys(&self) -> Vec<Vec<u8>> {
        match self.app().unwrap().ask(&[b"KEYS", b"*"]).unwrap() {
            Reply::Array(keys) => keys
                .into_iter()
                .map(|k| match k {
                    Reply::Bulk(key) => key,
                    other => panic!("{other:?}"),
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }
}

fn spawn(name: &str, port: u16, control_port: u16, files: &Path) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(files.join("log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_cache-node"))
        .args([
            "--cluster",
            "--member",
            name,
            "--metrics-port",
            "0",
            "--threads",
            "2",
            "--log-format",
            "json",
        ])
        .args([
            "--port",
            &port.to_string(),
            "--control-port",
            &control_port.to_string(),
        ])
        .arg("--control-password-file")
        .arg(files.join("control"))
        .arg("--password-file")
        .arg(files.join("app"))
        .arg("--data-dir")
        .arg(files.join("data"))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.files.path().join("log")).unwrap_or_default();
            eprintln!("--- {}\n{log}", self.name);
        }
    }
}

impl Listed for Process {
    fn entry(&self, role: &str) -> Value {
        json!({
            "name": self.name, "dataID": self.data_id, "role": role, "host": "127.0.0.1",
            "port": self.port, "controlPort": self.control_port,
        })
    }
}
