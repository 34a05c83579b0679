//! Commands over one slot and over several: locks in one order, the ticket drawn while all of them are held.

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::lanes::{Entry, Lanes, index, read};
use crate::order::ascending;

struct World {
    /// What is in each of two domains: how often it was written.
    domains: [Mutex<u8>; 2],
    lanes: Lanes,
}

/// Writes all of these domains as one command does: locks, changes, one entry of the log, and only then the locks are let go.
fn write(world: &World, domains: Vec<usize>) {
    let mut held: Vec<_> = domains
        .into_iter()
        .map(|domain| (domain, world.domains[domain].lock().unwrap()))
        .collect();
    let mut effects = [0; 2];
    for (domain, value) in &mut held {
        **value += 1;
        effects[*domain] = **value;
    }
    world.lanes.push(Entry::Effects(&effects));
}

/// Replays the log and compares: after each entry every domain has had all of its writes in order.
fn check(world: &World, entries: usize) {
    let mut drained = Vec::new();
    world.lanes.drain(&mut drained);
    let mut log = std::collections::BTreeMap::new();
    for buffer in drained {
        for (ticket, body, end) in index(&buffer) {
            let Entry::Effects(effects) = read(&buffer[body..end]) else {
                panic!("only effects were pushed");
            };
            log.insert(ticket, effects.to_vec());
        }
    }
    assert_eq!(log.len(), entries);
    let mut replica = [0; 2];
    for effects in log.into_values() {
        for (domain, value) in effects.into_iter().enumerate().filter(|(_, v)| *v > 0) {
            assert_eq!(
                value,
                replica[domain] + 1,
                "a write of domain {domain} out of order"
            );
            replica[domain] = value;
        }
    }
    assert_eq!(replica, [2, 2]);
}

fn run(order: fn(Vec<usize>) -> Vec<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let world = Arc::new(World {
            domains: [Mutex::new(0), Mutex::new(0)],
            lanes: Lanes::default(),
        });
        // As their keys come: the one names the second domain first.
        let writers: Vec<_> = [vec![1, 0], vec![0, 1, 1]]
            .map(|domains| {
                let world = world.clone();
                thread::spawn(move || write(&world, order(domains)))
            })
            .into();
        for writer in writers {
            writer.join().unwrap();
        }
        check(&world, 2);
    });
}

#[test]
fn commands_over_several_slots_neither_wait_for_each_other_nor_mix_in_the_log() {
    run(ascending);
}

#[test]
#[ignore = "stands still: run by the next one, in a process of its own"]
fn in_the_order_of_the_keys() {
    run(|mut domains| {
        domains.dedup();
        domains
    });
}

/// Loom's panic about a deadlock meets locks that are held, and ends the process.
#[test]
fn locking_in_the_order_of_the_keys_is_found() {
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--nocapture",
            "--ignored",
            "--exact",
            "locks::in_the_order_of_the_keys",
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(
        !done.status.success() && told.contains("deadlock"),
        "{told}"
    );
}

/// One over both domains, and one over each.
#[test]
fn one_slot_and_several_share_the_log() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let world = Arc::new(World {
            domains: [Mutex::new(0), Mutex::new(0)],
            lanes: Lanes::default(),
        });
        let writers: Vec<_> = [vec![0], vec![1]]
            .map(|domains| {
                let world = world.clone();
                thread::spawn(move || write(&world, domains))
            })
            .into();
        write(&world, ascending(vec![1, 0]));
        for writer in writers {
            writer.join().unwrap();
        }
        check(&world, 3);
    });
}
