//! What a run that was killed left behind: processes to end, states to forget.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::folder::StateFolder;

const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Ends the processes of an earlier run and removes the states of its Caches. The caller holds the lock.
pub(super) fn clear(folder: &StateFolder) -> anyhow::Result<()> {
    for name in folder.cache_names()? {
        let cache = folder.cache(&name);
        for member in members(&cache.members())? {
            end_process(&member)?;
            for gone in ["pid", "member.yaml"] {
                remove_if_there(&member.join(gone))?;
            }
            let data = member.join("data");
            if data.exists() {
                std::fs::remove_dir_all(&data)
                    .with_context(|| format!("removing {}", data.display()))?;
            }
        }
        for gone in [cache.status(), cache.topology(), cache.control_password()] {
            remove_if_there(&gone)?;
        }
    }
    remove_if_there(&folder.s3_file())
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn members(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .map(|e| e.path())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", folder.display())),
    }
}

/// Kills the process that the member's pid file names, if it still is that member: process IDs are used again.
fn end_process(member: &Path) -> anyhow::Result<()> {
    let Some(pid) = std::fs::read_to_string(member.join("pid"))
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
        .and_then(Pid::from_raw)
    else {
        return Ok(());
    };
    if !is_process_of(pid, member) {
        return Ok(());
    }
    tracing::info!(pid = pid.as_raw_nonzero(), member = %member.display(), "ending a process that an earlier run left");
    // An error means that it has just ended by itself; the wait below is what counts.
    let _ = kill_process(pid, Signal::KILL);
    let begun = Instant::now();
    while is_process_of(pid, member) {
        if begun.elapsed() > END_TIMEOUT {
            bail!(
                "process {} of an earlier run does not end: end it by hand (its member is {})",
                pid.as_raw_nonzero(),
                member.display()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A member's command line names its folder.
fn is_process_of(pid: Pid, member: &Path) -> bool {
    let pid = pid.as_raw_nonzero();
    let command = if cfg!(target_os = "linux") {
        std::fs::read(format!("/proc/{pid}/cmdline")).ok()
    } else {
        std::process::Command::new("ps")
            .args(["-o", "args=", "-p", &pid.to_string()])
            .output()
            .ok()
            .map(|out| out.stdout)
    };
    command
        .is_some_and(|line| String::from_utf8_lossy(&line).contains(&member.display().to_string()))
}

#[cfg(test)]
mod tests {
    use crate::local::folder::OwnedFolder;

    fn sleeper(argument: &str) -> std::process::Child {
        std::process::Command::new("/bin/sh")
            .args(["-c", "exec sleep 1000 # $0", argument])
            .spawn()
            .expect("a process")
    }

    /// A shell that stays, so that its command line keeps the argument.
    fn shell(argument: &str) -> std::process::Child {
        std::process::Command::new("/bin/sh")
            .args(["-c", "read line", argument])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a process")
    }

    #[test]
    fn only_the_members_own_process_is_ended_and_its_state_forgotten() {
        let temp = tempfile::tempdir().expect("a folder");
        let root = temp.path().join("state");
        let owned = OwnedFolder::open(&root).expect("a new state directory");
        let cache = owned.folder().cache("main");
        let mut children = Vec::new();
        for (name, of_member) in [("main-0-0", true), ("main-0-1", false)] {
            let member = cache.member(name);
            std::fs::create_dir_all(&member).expect("a folder");
            let child = if of_member {
                shell(&member.display().to_string())
            } else {
                sleeper("a stranger with a used-again process ID")
            };
            std::fs::write(member.join("pid"), child.id().to_string()).expect("a pid");
            children.push(child);
        }
        std::fs::write(cache.spec(), "kept").expect("a spec");
        std::fs::write(cache.status(), "forgotten").expect("a status");

        let refused = OwnedFolder::open(&root).expect_err("it is locked");
        assert!(refused.to_string().contains("--state-dir"), "{refused}");
        assert!(owned.folder().is_in_use());
        let folder = owned.folder().clone();
        drop(owned);
        assert!(!folder.is_in_use());

        // The test is the parent and has to reap for the process to be gone.
        let mut ours = children.remove(0);
        let reaper = std::thread::spawn(move || ours.wait().expect("an end"));
        OwnedFolder::open(&root).expect("free again");
        assert!(!reaper.join().expect("reaped").success());
        assert!(
            children[0].try_wait().expect("a state").is_none(),
            "the stranger lives"
        );
        children[0].kill().expect("killed");
        children[0].wait().expect("reaped");
        assert!(cache.spec().exists() && !cache.status().exists());
    }

    #[test]
    fn a_folder_of_someone_else_is_refused() {
        let temp = tempfile::tempdir().expect("a folder");
        std::fs::write(temp.path().join("thesis.tex"), "x").expect("a file");
        let refused = OwnedFolder::open(temp.path()).expect_err("not ours");
        assert!(
            refused.to_string().contains("not a state directory"),
            "{refused}"
        );
    }
}
