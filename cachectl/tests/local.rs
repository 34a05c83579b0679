//! The program as a person uses it: `cachectl local …` and the demo, with real processes.
//!
//! They need the server program: `cargo build -p cache-node` first, or name it in `CACHE_NODE_BIN`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");

fn cachectl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
    // No cluster of whoever runs the tests is to be asked.
    command.env_remove("KUBECONFIG").env("HOME", "/nonexistent");
    command
}

fn run(args: &[&str]) -> Output {
    cachectl().args(args).output().expect("cachectl runs")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(both).expect("text")
}

/// A `cachectl local up` that is killed when the test ends.
struct Up {
    process: Child,
    state: PathBuf,
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have been ended by the test.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Up {
    fn start(state: &Path, port: u16) -> Up {
        let process = cachectl()
            .args([
                "local",
                "up",
                "-f",
                QUICKSTART,
                "--port",
                &port.to_string(),
                "--state-dir",
            ])
            .arg(state)
            .stdout(Stdio::null())
            .spawn()
            .expect("cachectl runs");
        Up {
            process,
            state: state.to_path_buf(),
        }
    }

    fn state(&self) -> &str {
        self.state.to_str().expect("text")
    }

    fn until_ready(&mut self, shards: i64) {
        let begun = Instant::now();
        loop {
            let shown = run(&["status", "main", "-o", "json", "--local", self.state()]);
            let cache: serde_json::Value =
                serde_json::from_slice(&shown.stdout).unwrap_or_default();
            let status = &cache["status"];
            if status["phase"] == "Ready" && status["shards"] == shards {
                return;
            }
            assert!(
                self.process.try_wait().expect("a state").is_none(),
                "`local up` ended"
            );
            assert!(begun.elapsed() < PATIENCE, "not Ready: {}", text(&shown));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Process IDs of the members.
    fn members(&self) -> Vec<u32> {
        let folder = std::fs::read_dir(self.state.join("caches/main/members")).expect("members");
        let pid = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(entry.ok()?.path().join("pid"))
                .ok()?
                .parse()
                .ok()
        };
        folder.filter_map(pid).collect()
    }
}

fn is_alive(pid: u32) -> bool {
    // A process that has ended and was not reaped is a zombie.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

fn until_dead(pids: &[u32]) {
    let begun = Instant::now();
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(begun.elapsed() < PATIENCE, "members are left: {pids:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(process: &Child, name: &str) {
    let pid = process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill")
            .success()
    );
}

#[test]
fn up_status_scale_backup_why_and_ctrl_c() {
    let temp = tempfile::tempdir().expect("a folder");
    let mut up = Up::start(&temp.path().join("state"), 21_000);
    up.until_ready(3);

    let shown = text(&run(&["local", "status", "--state-dir", up.state()]));
    for word in [
        "main (local",
        "3/3 ready",
        "BACKUP",
        "daily",
        "main-2-1",
        "Replica",
        "127.0.0.1:2",
    ] {
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }
    let why = text(&run(&["why", "--local", up.state()]));
    assert!(
        why.contains("main is Ready") && why.contains("WHAT HAPPENED LAST"),
        "{why}"
    );

    let scaled = run(&[
        "local",
        "scale",
        "main",
        "--shards",
        "4",
        "--wait",
        "--state-dir",
        up.state(),
    ]);
    assert!(scaled.status.success(), "{}", text(&scaled));
    up.until_ready(4);

    let backup = run(&["local", "backup", "--state-dir", up.state()]);
    assert!(
        backup.status.success() && text(&backup).contains("4 shards in s3://cache-backup/daily/"),
        "{}",
        text(&backup)
    );
    let wrong = run(&["local", "backup", "weekly", "--state-dir", up.state()]);
    assert!(
        !wrong.status.success() && text(&wrong).contains("weekly"),
        "{}",
        text(&wrong)
    );

    let second = run(&["local", "up", "-f", QUICKSTART, "--state-dir", up.state()]);
    assert!(
        !second.status.success() && text(&second).contains("--state-dir"),
        "{}",
        text(&second)
    );

    let members = up.members();
    assert_eq!(members.len(), 8);
    signal(&up.process, "INT");
    assert!(up.process.wait().expect("an end").success());
    until_dead(&members);
    let after = run(&[
        "local",
        "scale",
        "main",
        "--shards",
        "2",
        "--state-dir",
        up.state(),
    ]);
    assert!(
        !after.status.success() && text(&after).contains("cachectl local up"),
        "{}",
        text(&after)
    );
}

#[test]
fn a_killed_run_leaves_no_process_and_the_next_begins_anew() {
    let temp = tempfile::tempdir().expect("a folder");
    let state = temp.path().join("state");
    let mut up = Up::start(&state, 22_000);
    up.until_ready(3);
    let members = up.members();
    assert!(members.len() == 6 && members.iter().all(|pid| is_alive(*pid)));
    signal(&up.process, "KILL");
    up.process.wait().expect("an end");
    until_dead(&members);
    let mut again = Up::start(&state, 22_000);
    again.until_ready(3);
}

#[test]
fn the_demo_runs_through() {
    let shown = run(&["demo", QUICKSTART, "--once", "--port", "23000"]);
    let told = text(&shown);
    assert!(shown.status.success(), "{told}");
    for word in [
        "4/4 ready",
        "none wrong",
        "manifest.json",
        "shard-3.rdb",
        "all of it worked",
    ] {
        assert!(told.contains(word), "no {word:?} in\n{told}");
    }
}

/// Without `--once`: the commands that it prints work, and Ctrl-C leaves nothing.
#[test]
fn the_demo_stays_up_until_ctrl_c() {
    let mut process = cachectl()
        .args(["demo", QUICKSTART, "--port", "24000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("cachectl runs");
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let mut told = lines.by_ref().map(|line| line.expect("text"));
    assert!(
        told.by_ref().any(|line| line.contains("It stays up until")),
        "the demo ended"
    );
    let printed: Vec<String> = told.by_ref().take(4).collect();
    let words: Vec<Vec<&str>> = printed
        .iter()
        .map(|line| line.split_whitespace().collect())
        .collect();
    // `<program> status --local <folder>`
    let status = run(&words[1][1..]);
    assert!(text(&status).contains("4/4 ready"), "{}", text(&status));
    // `redis-cli -c -h <host> -p <port> get demo:1`
    let found = Command::new(words[0][0])
        .args(&words[0][1..])
        .output()
        .expect("redis-cli runs");
    assert!(found.status.success(), "{}", text(&found));
    assert!(!text(&found).trim().is_empty(), "no such key");
    let up = Up {
        process,
        state: PathBuf::from(words[1].last().expect("a folder")),
    };
    let members = up.members();
    assert_eq!(members.len(), 8);
    signal(&up.process, "INT");
    let mut up = up;
    assert!(up.process.wait().expect("an end").success());
    until_dead(&members);
}

#[test]
fn a_demo_that_cannot_begin_says_why() {
    let temp = tempfile::tempdir().expect("a folder");
    let file = temp.path().join("wrong.yaml");
    std::fs::write(
        &file,
        "kind: Cache\nmetadata: {name: main}\nspec: {shardz: 3}\n",
    )
    .expect("written");
    let shown = run(&["demo", file.to_str().expect("text"), "--once"]);
    assert!(!shown.status.success(), "{}", text(&shown));
    let missing = run(&[
        "demo",
        QUICKSTART,
        "--once",
        "--node-binary",
        "/nowhere/cache-node",
    ]);
    assert!(
        !missing.status.success() && text(&missing).contains("--node-binary"),
        "{}",
        text(&missing)
    );
}

#[test]
fn without_a_cluster_the_next_step_is_told() {
    let temp = tempfile::tempdir().expect("a folder");
    let nothing = run(&["status", "--local", temp.path().to_str().expect("text")]);
    assert!(
        !nothing.status.success() && text(&nothing).contains("cachectl local up"),
        "{}",
        text(&nothing)
    );
    let no_kubeconfig = run(&["status"]);
    assert!(
        !no_kubeconfig.status.success() && text(&no_kubeconfig).contains("KUBECONFIG"),
        "{}",
        text(&no_kubeconfig)
    );
}
