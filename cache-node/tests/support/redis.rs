//! A redis-server that has loaded a snapshot.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::wait_until;

pub struct Loaded {
    process: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

/// redis-check-rdb accepts the file, and redis-server loads it.
pub fn load(rdb: &[u8]) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dump.rdb"), rdb).unwrap();
    let check = Command::new("redis-check-rdb")
        .arg(dir.path().join("dump.rdb"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        said.contains("RDB looks OK") && said.contains("Checksum OK"),
        "{said}"
    );
    let socket = dir.path().join("redis.sock");
    let process = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--dbfilename", "dump.rdb"])
        .arg("--dir")
        .arg(dir.path())
        .arg("--unixsocket")
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let loaded = Loaded {
        process,
        socket,
        _dir: dir,
    };
    wait_until("redis-server has loaded", || {
        loaded.ask(&["PING"]) == "PONG"
    });
    loaded
}

impl Loaded {
    /// What redis-cli makes of a reply; null where there is none.
    pub fn ask(&self, words: &[&str]) -> serde_json::Value {
        let output = Command::new("redis-cli")
            .arg("-s")
            .arg(&self.socket)
            .arg("--json")
            .args(words)
            .output();
        serde_json::from_slice(&output.unwrap().stdout).unwrap_or_default()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // It is ours, and holds nothing to be kept.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
