//! Golden scripts: what the operator plans and says in the main stories. A line that begins with `> ` is a command; what follows is what came of it.
//! `UPDATE_GENERATED=1 cargo test --test plan golden` writes them anew; read the difference.

use std::fs;
use std::path::Path;

use cache_operator::api::CacheStatus;
use cache_operator::plan;
use cache_operator::status::{Outcome, status};
use serde_json::{Value, json};

use crate::world::{World, spec};

const SCRIPTS: [&str; 8] = [
    "bring_up",
    "scale_out_and_in",
    "failover",
    "graceful_stop",
    "roll",
    "data_lost",
    "adopt",
    "rebalance",
];

#[test]
fn scripts_read_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan/golden");
    let mut wrong = Vec::new();
    for script in SCRIPTS {
        let path = folder.join(format!("{script}.txt"));
        let kept =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let told = run(&kept);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&path, &told).expect("a file");
        } else if told != kept {
            wrong.push(format!("{script}.txt reads now:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        fs::read_dir(folder).expect("a folder").count(),
        SCRIPTS.len(),
        "a script is not run"
    );
}

fn run(script: &str) -> String {
    let mut world = World::new(1, spec(1, 0));
    let mut previous = None;
    let mut out = String::new();
    for line in script.lines() {
        if line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
        let Some(command) = line.strip_prefix("> ") else {
            continue;
        };
        out.push_str(line);
        out.push('\n');
        out.push_str(&obey(&mut world, &mut previous, command));
        out.push('\n');
    }
    format!("{}\n", out.trim_end())
}

fn obey(world: &mut World, previous: &mut Option<CacheStatus>, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    match words.as_slice() {
        ["set", field, value] => {
            let value: Value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            world.set(field, value);
        }
        ["rebalance", "every", minutes, "minutes"] => {
            let schedule = format!("*/{minutes} * * * *");
            world.set(
                "maintenance",
                json!({"schedule": schedule, "tasks": [{"rebalance": {"thresholdPercent": 15}}]}),
            );
        }
        ["write", count, "keys"] => {
            let count: u32 = count.parse().expect("a number");
            assert!((0..count).all(|key| world.write(key)), "{}", world.story());
        }
        ["write", count, "keys", "below", "slot", slot] => {
            let (count, slot): (usize, u16) = (
                count.parse().expect("a number"),
                slot.parse().expect("a slot"),
            );
            let keys: Vec<u32> = (0..1_000_000)
                .filter(|key| crate::world::slot_of(*key) < slot)
                .take(count)
                .collect();
            assert!(
                keys.into_iter().all(|key| world.write(key)),
                "{}",
                world.story()
            );
        }
        ["kill", member] => world.kill_process(member),
        ["delete", "pod", member] => world.delete_pod(member),
        ["cut", "off", member] => drop(world.cut.insert((*member).into())),
        ["reconnect", member] => drop(world.cut.remove(*member)),
        ["stop", "the", "operator"] => world.operator = None,
        ["start", "the", "operator"] => world.start_operator(),
        ["clear", "the", "status"] => world.stored = None,
        ["run", seconds, "s"] => {
            let ticks = seconds.parse::<usize>().expect("a number") * 2;
            return tell(world, |tick, _| tick >= ticks);
        }
        ["settle"] => {
            let told = tell(world, |tick, calm| calm >= 3 || tick > 2000);
            describe(world, previous);
            return told;
        }
        ["status"] => return describe(world, previous),
        _ => panic!("no such command: {command}"),
    }
    String::new()
}

/// Ticks until `done(ticks, calm ticks)`; what was planned, each plan once.
fn tell(world: &mut World, done: impl Fn(usize, usize) -> bool) -> String {
    let (mut out, mut last) = (String::new(), String::new());
    let (mut ticks, mut calm) = (0, 0);
    while !done(ticks, calm) {
        ticks += 1;
        let Some(plan) = world.tick() else {
            continue;
        };
        calm = if plan.steps.is_empty() && plan.waiting.is_empty() {
            calm + 1
        } else {
            0
        };
        let text = plan.to_string();
        if text != last && !text.starts_with("nothing to do\n") {
            out.push_str(&text);
        }
        last = text;
    }
    out
}

fn describe(world: &World, previous: &mut Option<CacheStatus>) -> String {
    let Some(observed) = world.observe() else {
        return String::new();
    };
    let desired = world.desired();
    let plan = plan::plan(&desired, &observed, world.now_ms);
    let status = status(
        &desired,
        &observed,
        &plan,
        &Outcome::default(),
        previous.as_ref(),
        world.now_ms,
    );
    let mut out = format!(
        "{:?}, {} shards ready\n",
        status.phase.expect("a phase"),
        status.ready_shards.as_deref().unwrap_or_default()
    );
    for condition in &status.conditions {
        out.push_str(&format!(
            "{} {} ({}): {}\n",
            condition.type_, condition.status, condition.reason, condition.message
        ));
    }
    for member in status.members.iter().filter(|member| !member.ready) {
        out.push_str(&format!(
            "{} {:?}: {}\n",
            member.name, member.role, member.message
        ));
    }
    for action in &status.pending_actions {
        out.push_str(&format!("pending: {action}\n"));
    }
    *previous = Some(status);
    out
}
