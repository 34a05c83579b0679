//! Real processes: small shell scripts.

use super::*;

fn script(folder: &std::path::Path, name: &str, script: &str) -> ProcessSpec {
    ProcessSpec {
        name: name.into(),
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: BTreeMap::new(),
        log: folder.join(format!("{name}.log")),
        pid_file: folder.join(format!("{name}.pid")),
        label: String::new(),
    }
}

async fn until(supervisor: &Supervisor, what: impl FnMut(&Processes) -> bool) -> Processes {
    let mut states = supervisor.states();
    tokio::time::timeout(Duration::from_secs(20), states.wait_for(what))
        .await
        .expect("in time")
        .expect("the supervisor runs")
        .clone()
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

#[tokio::test]
async fn a_killed_process_starts_again_with_another_pid() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = Supervisor::start().expect("a supervisor");
    supervisor.ensure(script(folder.path(), "a", "exec sleep 1000"));
    let first = until(&supervisor, |all| {
        all.get("a").is_some_and(|s| s.pid.is_some())
    })
    .await["a"]
        .pid;
    supervisor.ensure(script(folder.path(), "a", "exec sleep 1000"));
    supervisor.signal("a", Signal::KILL);
    let again = until(&supervisor, |all| {
        all.get("a")
            .is_some_and(|s| s.restarts == 1 && s.pid.is_some())
    })
    .await;
    assert_ne!(again["a"].pid, first);
    assert!(
        again["a"]
            .last_exit
            .as_ref()
            .is_some_and(|e| e.contains("9")),
        "{again:?}"
    );
}

#[tokio::test]
async fn a_held_process_rests_until_it_is_let_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = Supervisor::start().expect("a supervisor");
    supervisor.ensure(script(folder.path(), "a", "exec sleep 1000"));
    until(&supervisor, |all| {
        all.get("a").is_some_and(|s| s.pid.is_some())
    })
    .await;
    supervisor.hold("a", true);
    supervisor.signal("a", Signal::KILL);
    until(&supervisor, |all| all["a"].pid.is_none()).await;
    tokio::time::sleep(BACKOFF_MIN * 6).await;
    assert_eq!(supervisor.states().borrow()["a"].pid, None);
    supervisor.hold("a", false);
    until(&supervisor, |all| all["a"].pid.is_some()).await;
}

#[tokio::test]
async fn stop_is_graceful_then_firm_and_leaves_no_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = Supervisor::start().expect("a supervisor");
    let polite = script(
        folder.path(),
        "polite",
        "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done",
    );
    let deaf = script(
        folder.path(),
        "deaf",
        "trap '' TERM; echo up; while :; do sleep 0.05; done",
    );
    for spec in [&polite, &deaf] {
        supervisor.ensure(spec.clone());
        while !std::fs::read_to_string(&spec.log).is_ok_and(|l| l.contains("up")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let pids: Vec<u32> = supervisor
        .states()
        .borrow()
        .values()
        .filter_map(|s| s.pid)
        .collect();
    supervisor.stop("polite", Duration::from_secs(20)).await;
    assert!(
        std::fs::read_to_string(&polite.log)
            .expect("a log")
            .contains("bye")
    );
    supervisor.stop("deaf", Duration::from_millis(50)).await;
    assert_eq!(*supervisor.states().borrow(), Processes::new());
    assert!(pids.len() == 2 && !pids.iter().any(|pid| is_alive(*pid)));
    assert!(!deaf.pid_file.exists());
}

#[tokio::test]
async fn a_replaced_process_runs_from_its_new_spec_as_another_incarnation() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = Supervisor::start().expect("a supervisor");
    supervisor.ensure(script(folder.path(), "a", "exec sleep 1000"));
    let up = |all: &Processes| all.get("a").is_some_and(|s| s.pid.is_some());
    let first = until(&supervisor, up).await["a"].clone();
    let again = script(folder.path(), "a", "echo second; exec sleep 1000");
    supervisor.replace(again.clone(), Duration::from_secs(20));
    let next = until(&supervisor, |all| {
        up(all) && all["a"].incarnation > first.incarnation
    })
    .await["a"]
        .clone();
    assert!(!is_alive(first.pid.expect("a pid")) && next.pid != first.pid);
    assert_eq!(
        std::fs::read_to_string(&again.pid_file).ok(),
        next.pid.map(|pid| pid.to_string())
    );
}

#[tokio::test]
async fn processes_end_with_the_supervisor() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = Supervisor::start().expect("a supervisor");
    supervisor.ensure(script(folder.path(), "a", "exec sleep 1000"));
    let pid = until(&supervisor, |all| {
        all.get("a").is_some_and(|s| s.pid.is_some())
    })
    .await["a"]
        .pid;
    drop(supervisor);
    assert!(!is_alive(pid.expect("a pid")));
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let supervisor = Supervisor::start().expect("a supervisor");
    let mut spec = script(folder.path(), "a", "");
    spec.program = "/nowhere/cache-node".into();
    supervisor.ensure(spec);
    let states = until(&supervisor, |all| {
        all.get("a").is_some_and(|s| s.last_exit.is_some())
    })
    .await;
    assert!(
        states["a"]
            .last_exit
            .as_ref()
            .is_some_and(|e| e.contains("/nowhere/cache-node"))
    );
}
