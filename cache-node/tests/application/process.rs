//! The process: its flags, its ports, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use super::wire::{Child, Client, PATIENCE, wait_for};

fn program(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cache-node"));
    command.args(flags).env_clear().stderr(Stdio::piped());
    command
}

struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts and reads the log up to the line that says where it listens.
    fn start(flags: &[&str]) -> Self {
        let child = program(&["--port", "0", "--threads", "2", "--log-format", "json"])
            .args(flags)
            .spawn()
            .unwrap();
        let mut child = Child(child);
        let mut log = BufReader::new(child.0.stderr.take().unwrap());
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "it ended before it was ready"
            );
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
            if entry["fields"]["message"] == "ready for connections" {
                let address = entry["fields"]["address"]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                // The rest is read so that the process never waits for its log.
                std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
                return Self { child, address };
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn end(mut self) -> Option<i32> {
        let mut code = None;
        wait_for("its end", || {
            code = self.child.0.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|c| c.code())
    }
}

fn run(flags: &[&str], env: &[(&str, &str)]) -> Output {
    program(flags).envs(env.iter().copied()).output().unwrap()
}

/// Flags, environment, exit code, and what is said.
type Refused<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);

#[test]
fn flags_that_cannot_be_are_refused_with_the_mend() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let table: [Refused<'_>; 6] = [
        (&["--threads", "0"], &[], 2, "--threads=0: give 1 to 128"),
        (
            &[],
            &[("CACHE_NODE_MAX_MEMORY", "lots")],
            2,
            "\"lots\" is not a size",
        ),
        (&["--cluster"], &[], 2, "a member needs a name"),
        (&["--nosuch"], &[], 2, "--nosuch"),
        (
            &["--port", &port],
            &[],
            1,
            "choose another --bind or --port",
        ),
        (
            &["--port", "0", "--password-file", "/nosuch/file"],
            &[],
            1,
            "name a readable file",
        ),
    ];
    for (flags, env, code, says) in table {
        let output = run(flags, env);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {text}");
        assert!(text.contains(says), "{flags:?}: {text}");
    }
    let help = run(&["--help"], &[]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert_eq!(help.status.code(), Some(0));
    for word in [
        "Examples:",
        "--max-memory",
        "CACHE_NODE_PORT",
        "--password-file",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

/// SIGTERM, SIGINT and SHUTDOWN end the process with 0, after what was received is answered.
#[test]
fn it_ends_in_order() {
    for way in ["-TERM", "-INT", "SHUTDOWN"] {
        let process = Process::start(&[]);
        let mut client = Client::connect(process.address);
        assert_eq!(client.ask("SET a 1").text(), "+OK");
        match way {
            "SHUTDOWN" => client.send(b"SHUTDOWN NOSAVE\r\n"),
            signal => process.signal(signal),
        }
        assert_eq!(client.rest(), b"", "{way}");
        assert_eq!(process.end(), Some(0), "{way}");
    }
}

fn http(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

/// Starts with a metrics port that was free a moment ago; another if somebody took it.
fn with_metrics(flags: &[&str]) -> (Process, SocketAddr) {
    for _ in 0..20 {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let port = address.port().to_string();
        let flags: Vec<&str> = flags
            .iter()
            .copied()
            .chain(["--metrics-port", &port])
            .collect();
        if let Ok(process) = std::panic::catch_unwind(|| Process::start(&flags)) {
            return (process, address);
        }
    }
    panic!("no metrics port was free");
}

#[test]
fn metrics_and_probes_tell_how_it_stands() {
    let (process, metrics) = with_metrics(&["--max-memory", "64mb"]);
    let mut client = Client::connect(process.address);
    for command in [
        "SET a 1",
        "SET b 1 EX 1000",
        "GET a",
        "GET nosuch",
        "NOSUCH",
        "INCR a",
        "CLIENT ID",
    ] {
        client.ask(command);
    }
    assert_eq!(http(metrics, "/livez"), (200, "ok\n".into()));
    assert_eq!(http(metrics, "/readyz"), (200, "ok\n".into()));
    assert_eq!(http(metrics, "/nosuch").0, 404);
    let (code, text) = http(metrics, "/metrics");
    assert_eq!(code, 200);
    for line in [
        "cache_node_commands_total{command=\"set\"} 2",
        "cache_node_commands_total{command=\"client|id\"} 1",
        "cache_node_hits_total 1",
        "cache_node_misses_total 1",
        "cache_node_error_replies_total 1",
        "cache_node_keys 2",
        "cache_node_keys_with_expiry 1",
        "cache_node_memory_limit_bytes 67108864",
        "cache_node_connections 1",
        "cache_node_serving 1",
        "cache_node_role{role=\"Primary\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    check_exposition(&text);
}

/// Each family has its help and type, each sample a family and a number, and docs/metrics.md knows each.
fn check_exposition(text: &str) {
    let docs = include_str!("../../../docs/metrics.md");
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(
                docs.contains(&format!("`{family}")),
                "docs/metrics.md says nothing of {family}"
            );
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family), "{line} in {family}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

/// A cluster's member without a topology is alive and not ready, and says what it waits for.
#[test]
fn a_member_without_a_topology_is_not_ready() {
    let files = tempfile::tempdir().unwrap();
    let password = files.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let password = password.display().to_string();
    let flags = [
        "--cluster",
        "--member",
        "m-0",
        "--control-port",
        "0",
        "--control-password-file",
        &password,
    ];
    let (process, metrics) = with_metrics(&flags);
    let (code, text) = http(metrics, "/readyz");
    assert_eq!((code, text.as_str()), (503, "waiting for a topology\n"));
    assert_eq!(http(metrics, "/livez").0, 200);
    let mut client = Client::connect(process.address);
    assert_eq!(
        client.ask("GET a").text(),
        "-CLUSTERDOWN Hash slot not served"
    );
    assert!(client.ask("CLUSTER NODES").text().contains("myself,master"));
    assert!(
        client
            .ask("CACHE.NODE HELLO")
            .text()
            .starts_with("-ERR unknown command")
    );
    process.signal("-TERM");
    assert_eq!(process.end(), Some(0));
}

/// An application's password neither stops a member nor takes memory beyond what its operator gave it.
#[test]
fn an_application_does_not_undo_what_the_operator_set() {
    let files = tempfile::tempdir().unwrap();
    let password = files.path().join("password");
    std::fs::write(&password, "secret").unwrap();
    let password = password.display().to_string();
    let process = Process::start(&[
        "--cluster",
        "--member",
        "m-0",
        "--metrics-port",
        "0",
        "--control-port",
        "0",
        "--control-password-file",
        &password,
        "--max-memory",
        "64mb",
    ]);
    let mut client = Client::connect(process.address);
    let held = |client: &mut Client| client.ask("CONFIG GET maxmemory").items()[1].text();
    for (value, taken) in [
        ("0", false),
        ("65mb", false),
        ("32mb", true),
        ("67108865", false),
        ("64mb", true),
    ] {
        let before = held(&mut client);
        let reply = client.ask(&format!("CONFIG SET maxmemory {value}")).text();
        if taken {
            assert_eq!(reply, "+OK", "{value}");
        } else {
            assert!(reply.contains("--max-memory"), "{value}: {reply}");
            assert_eq!(held(&mut client), before);
        }
    }
    assert_eq!(held(&mut client), (64 << 20).to_string());
    for command in ["SHUTDOWN", "SHUTDOWN NOSAVE"] {
        let reply = client.ask(command).text();
        assert!(reply.contains("CACHE.NODE SHUTDOWN"), "{reply}");
    }
    assert_eq!(client.ask("PING").text(), "+PONG");
    process.signal("-TERM");
    assert_eq!(process.end(), Some(0));
}

/// A client that never reads its replies does not keep the process from ending.
#[test]
fn a_client_that_does_not_read_is_not_waited_for_at_the_end() {
    let process = Process::start(&[]);
    let mut client = Client::connect(process.address);
    let value = "v".repeat(1 << 20);
    assert_eq!(client.ask(&format!("SET big {value}")).text(), "+OK");
    // More than sockets hold; none of it is read.
    client.send("GET big\r\n".repeat(100).as_bytes());
    let mut other = Client::connect(process.address);
    wait_for("its replies to wait", || {
        let list = other.ask("CLIENT LIST").text();
        let waiting = |line: &str| line.contains(" obl=") && !line.contains(" obl=0 ");
        list.lines().any(waiting)
    });
    process.signal("-TERM");
    assert_eq!(process.end(), Some(0));
}
