//! A real redis-server, of Debian's package.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use super::wire::{Child, Client, PATIENCE};

const PROGRAM: &str = "/usr/bin/redis-server";

pub struct Redis {
    _process: Child,
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(flags: &[&str]) -> Self {
        // A port that was free a moment ago may be taken: then the next.
        for _ in 0..20 {
            if let Some(redis) = Self::try_start(flags) {
                return redis;
            }
        }
        panic!("{PROGRAM} did not start; apt-get install redis-server");
    }

    fn try_start(flags: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let process = Command::new(PROGRAM)
            .args(["--port", &address.port().to_string()])
            .args(["--bind", "127.0.0.1", "--databases", "1"])
            .args(flags)
            .args(["--save", "", "--appendonly", "no"])
            .args(["--dir", &folder.path().display().to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{PROGRAM}: {e}; apt-get install redis-server"));
        let mut process = Child(process);
        let end = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < end {
            if process.0.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(address).is_ok() {
                return Some(Self {
                    _process: process,
                    address,
                    _folder: folder,
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        None
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }
}
