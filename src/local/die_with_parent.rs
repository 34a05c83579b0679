//! The one `unsafe` of local mode: children that do not outlive it, even when it is killed.

use std::process::Command;

/// Lets the kernel kill the child when the *thread* that spawns it ends. Outside Linux there is no such thing; there the
/// clean-up at the next start finds what was left.
#[cfg(target_os = "linux")]
pub(super) fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

    let parent = getpid();
    let set = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died between fork and here: then no signal comes.
        if getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed: `set` makes two system calls and allocates
    // nothing.
    unsafe { command.pre_exec(set) };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn die_with_parent(_command: &mut Command) {}
