//! Whole processes: crashes, restarts, stops, and slot moves as a cluster client sees them.

mod support;

use std::time::{Duration, Instant};

use cache_node::cluster::role::Role;
use cache_node::cluster::state::{MovePhase, SyncPhase};
use cache_node::control::resp::Reply;
use support::process::{APP_PASSWORD, Client, Process};
use support::traffic::{Load, held, keeps, lost};
use support::*;

const ALL: &[(u16, u16)] = &[(0, 16_383)];

fn synced(primary: &Process, replicas: usize) {
    wait_until("replicas are synced", || {
        primary.state().replicas.iter().filter(|r| r.synced).count() == replicas
    });
}

#[test]
fn a_killed_primary_is_followed_by_its_replica_and_never_serves_empty() {
    let (mut a, b, c) = (
        Process::start("m-0-0"),
        Process::start("m-0-1"),
        Process::start("m-0-2"),
    );
    let first = Topology::new(1).shard("0", ALL, &[&a, &b, &c]).bootstrap();
    for node in [&a, &b, &c] {
        node.push(&first);
    }
    synced(&a, 2);
    let load = Load::start(&[a.port, b.port, c.port], 500, |_| true);
    wait_until("writes come", || a.state().offset > 50_000);
    let replicated = load.replicated(&a, &[&b, &c]);
    let kept = a.files().join("data/topology.json");
    wait_until("its topology is kept", || kept.exists());
    a.restart();
    // The same name is there again, with nothing in memory: it waits, although the topology it kept says that it is primary.
    wait_until("it knows its topology", || a.state().epoch == 1);
    assert_eq!(
        (a.state().role, a.state().serving, a.state().keys),
        (Role::None, false, 0)
    );
    let heir = if (b.state().log_epoch, b.state().offset) >= (c.state().log_epoch, c.state().offset)
    {
        &b
    } else {
        &c
    };
    let other = if heir.name == b.name { &c } else { &b };
    let mut second = Topology::new(2).shard("0", ALL, &[heir, other, &a]);
    second.shards[0]["members"][2]["role"] = "Learner".into();
    for node in [heir, other, &a] {
        node.push(&second);
    }
    let offset = heir.state().offset;
    wait_until("writes come to the heir", || {
        heir.state().offset > offset + 20_000
    });
    let writer = load.stop();
    keeps(&writer, &held(&[heir]), &replicated);
    synced(heir, 2);
    for node in [other, &a] {
        wait_until("all have the same", || {
            node.state().offset == heir.state().offset
        });
        assert_eq!(node.state().keys, heir.state().keys);
    }
}

#[test]
fn sigterm_hands_over_without_an_operator_and_loses_nothing() {
    let (mut a, b) = (Process::start("m-0-0"), Process::start("m-0-1"));
    let first = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&first);
    b.push(&first);
    synced(&a, 1);
    let load = Load::start(&[a.port, b.port], 500, |_| true);
    wait_until("writes come", || a.state().offset > 50_000);
    let begun = Instant::now();
    assert_eq!(a.terminate(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let offset = b.state().offset;
    assert_eq!((b.state().role, b.state().epoch), (Role::Primary, 2));
    wait_until("writes go on", || b.state().offset > offset + 20_000);
    let writer = load.stop();
    assert_eq!(lost(&writer, &held(&[&b])), 0);
    assert!(writer.errors.is_empty(), "{:?}", writer.errors);
}

#[test]
fn a_slot_move_is_not_seen_by_clients_but_for_moved() {
    let (a, b) = (Process::start("m-0-0"), Process::start("m-1-0"));
    let at = |epoch, split: u16| {
        Topology::new(epoch).shard("0", &[(0, split)], &[&a]).shard(
            "1",
            &[(split + 1, 16_383)],
            &[&b],
        )
    };
    let push = |t: &Topology| [&b, &a].iter().for_each(|n| n.push(t));
    push(&at(1, 8_191).bootstrap());
    let load = Load::start(&[a.port, b.port], 2_000, |_| true);
    wait_until("all keys are written", || {
        a.state().keys + b.state().keys == 2_000
    });
    let mut epoch = 2;
    let mut split = 8_191;
    for (id, to_split) in [("m1", 4_000), ("m2", 12_000), ("m3", 8_191)] {
        let (slots, from, to, source) = if to_split < split {
            ((to_split + 1, split), "0", "1", &a)
        } else {
            ((split + 1, to_split), "1", "0", &b)
        };
        push(&at(epoch, split).moving(id, slots, from, to));
        wait_until("it streams", || {
            source
                .state()
                .moves
                .iter()
                .any(|m| m.id == id && m.state == MovePhase::Streaming)
        });
        source.node(&["MOVE", "SEAL", id, "10000"]).unwrap();
        push(&at(epoch + 1, to_split));
        (epoch, split) = (epoch + 2, to_split);
    }
    let writer = load.stop();
    wait_until("lost slots are dropped", || {
        a.state().keys + b.state().keys == 2_000
    });
    assert_eq!(lost(&writer, &held(&[&a, &b])), 0);
    assert!(writer.errors.is_empty(), "{:?}", writer.errors);
}

/// Shards of two members each; slots 0-4000 move from shard 0 to shard 1. Load goes to shard 0's slots only.
struct Killing {
    source: [Process; 2],
    destination: [Process; 2],
}

impl Killing {
    fn new() -> Self {
        let world = Self {
            source: [Process::start("m-0-0"), Process::start("m-0-1")],
            destination: [Process::start("m-1-0"), Process::start("m-1-1")],
        };
        world.push(&world.before(1, [0, 1], [0, 1]).bootstrap());
        synced(&world.source[0], 1);
        synced(&world.destination[0], 1);
        world
    }

    fn shards(&self, epoch: u64, split: u16, s: [usize; 2], d: [usize; 2]) -> Topology {
        let low: &[(u16, u16)] = if split == 0 {
            &[(0, 8_191)]
        } else {
            &[(4_001, 8_191)]
        };
        let high: &[(u16, u16)] = if split == 0 {
            &[(8_192, 16_383)]
        } else {
            &[(0, 4_000), (8_192, 16_383)]
        };
        Topology::new(epoch)
            .shard("0", low, &[&self.source[s[0]], &self.source[s[1]]])
            .shard(
                "1",
                high,
                &[&self.destination[d[0]], &self.destination[d[1]]],
            )
    }

    fn before(&self, epoch: u64, s: [usize; 2], d: [usize; 2]) -> Topology {
        self.shards(epoch, 0, s, d)
    }

    fn push(&self, topology: &Topology) {
        for node in self.destination.iter().chain(&self.source) {
            // Those that were killed do not answer.
            if node.control().is_ok() {
                node.push(topology);
            }
        }
    }

    fn load(&self) -> Load {
        let ports: Vec<u16> = self
            .source
            .iter()
            .chain(&self.destination)
            .map(|p| p.port)
            .collect();
        Load::start(&ports, 3_000, |slot| slot <= 8_191)
    }

    fn finish(&self, epoch: u64, s: [usize; 2], d: [usize; 2]) {
        let source = &self.source[s[0]];
        wait_until("the move streams", || {
            source
                .state()
                .moves
                .iter()
                .any(|m| m.state == MovePhase::Streaming)
        });
        source.node(&["MOVE", "SEAL", "mv", "10000"]).unwrap();
        self.push(&self.shards(epoch, 1, s, d));
    }
}

#[test]
fn a_destination_killed_in_a_move_loses_nothing() {
    let mut w = Killing::new();
    let load = w.load();
    wait_until("all keys are written", || w.source[0].state().keys == 3_000);
    w.push(
        &w.before(2, [0, 1], [0, 1])
            .moving("mv", (0, 4_000), "0", "1"),
    );
    wait_until("keys come", || {
        w.destination[0].state().imports.iter().any(|i| i.keys > 0)
    });
    w.destination[0].kill();
    w.push(
        &w.before(3, [0, 1], [1, 0])
            .moving("mv", (0, 4_000), "0", "1"),
    );
    w.finish(4, [0, 1], [1, 0]);
    let writer = load.stop();
    let nodes = [&w.source[0], &w.destination[1]];
    wait_until("lost slots are dropped", || {
        nodes.iter().map(|n| n.state().keys).sum::<u64>() == 3_000
    });
    assert_eq!(lost(&writer, &held(&nodes)), 0);
    assert!(writer.errors.is_empty(), "{:?}", writer.errors);
}

#[test]
fn a_source_killed_in_a_move_loses_no_more_than_a_crash_does() {
    let mut w = Killing::new();
    let load = w.load();
    wait_until("all keys are written", || w.source[0].state().keys == 3_000);
    w.push(
        &w.before(2, [0, 1], [0, 1])
            .moving("mv", (0, 4_000), "0", "1"),
    );
    wait_until("keys come", || {
        w.destination[0].state().imports.iter().any(|i| i.keys > 0)
    });
    let replicated = load.replicated(&w.source[0], &[&w.source[1]]);
    w.source[0].kill();
    w.push(
        &w.before(3, [1, 0], [0, 1])
            .moving("mv", (0, 4_000), "0", "1"),
    );
    w.finish(4, [1, 0], [0, 1]);
    let writer = load.stop();
    let nodes = [&w.source[1], &w.destination[0]];
    wait_until("lost slots are dropped", || {
        nodes.iter().map(|n| n.state().keys).sum::<u64>() == 3_001
    });
    keeps(&writer, &held(&nodes), &replicated);
    // The destination's replica has what it has.
    let (primary, replica) = (&w.destination[0], &w.destination[1]);
    wait_until("its replica follows", || {
        replica.state().offset == primary.state().offset
    });
    assert_eq!(replica.state().keys, primary.state().keys);
}

#[test]
fn a_stopped_replica_is_dropped_and_comes_back() {
    let (a, b) = (Process::start("m-0-0"), Process::start("m-0-1"));
    let first = Topology::new(1).shard("0", ALL, &[&a, &b]).bootstrap();
    a.push(&first);
    b.push(&first);
    synced(&a, 1);
    // It does not run, but its connection stays.
    b.signal("STOP");
    let load = Load::start(&[a.port], 500, |_| true);
    wait_until("it is dropped", || a.state().replicas.is_empty());
    b.signal("CONT");
    synced(&a, 1);
    load.stop();
    wait_until("it caught up", || b.state().offset == a.state().offset);
    assert_eq!(
        (b.state().keys, b.state().sync.state),
        (a.state().keys, SyncPhase::Streaming)
    );
}

#[test]
fn the_two_ports_do_not_mix() {
    let node = Process::start("m-0-0");
    let ports = [(node.control_port, APP_PASSWORD), (node.port, PASSWORD)];
    for (port, password) in ports {
        let refused = Client::connect(([127, 0, 0, 1], port).into(), password)
            .err()
            .unwrap();
        assert!(refused.to_string().starts_with("WRONGPASS"), "{refused}");
    }
    let reply = node.app().unwrap().ask(&[b"CACHE.NODE", b"HELLO"]).unwrap();
    assert!(
        matches!(&reply, Reply::Error(e) if e.starts_with("ERR unknown command")),
        "{reply:?}"
    );
    let reply = node.control().unwrap().ask(&[b"GET", b"k"]).unwrap();
    assert!(matches!(&reply, Reply::Error(_)), "{reply:?}");
}

#[test]
fn two_processes_do_not_share_a_data_directory() {
    let node = Process::start("m-0-0");
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_cache-node"))
        .args([
            "--cluster",
            "--member",
            "m-0-1",
            "--metrics-port",
            "0",
            "--port",
            "0",
            "--control-port",
            "0",
        ])
        .arg("--control-password-file")
        .arg(node.files().join("control"))
        .arg("--data-dir")
        .arg(node.files().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("another process uses it"),
        "{said}"
    );
}
