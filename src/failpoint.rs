//! Crashes at chosen step boundaries, for tests of what a crash leaves behind. Compiled in only with the feature `failpoints`; without it
//! [`boundary`] is nothing.
//!
//! A boundary is a point before, within or after a step, named `<namespace>/<cache>: <before|after|stored> <step>`; the step's text holds its epoch or
//! member, so a name comes up again only when the same work is tried again.
//!
//! | environment variable | meaning |
//! |---|---|
//! | `CACHE_OPERATOR_CRASH_CACHE` | `<namespace>/<name>`: only this Cache's boundaries count. Unset: nothing crashes |
//! | `CACHE_OPERATOR_CRASH_FILE` | a file that outlives the process; each crash appends its boundary's name |
//! | `CACHE_OPERATOR_CRASH_AT` | `each`: crash once at every boundary that is not in the file yet. `<n>`: only at the n-th that this process comes to, if the file is empty |
//! | `CACHE_OPERATOR_CRASH_HOW` | `exit` (default): the process ends with code 86 and something else must start it. `exec`: it replaces itself by a fresh start of the same program, which loses all memory and connections but needs no supervisor and meets no back-off of the kubelet |
//!
//! So one scale with `each` walks through a crash at every boundary of the scale, in order; afterwards the file lists them.

use crate::platform::CacheKey;

/// Where in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Before,
    /// The topology is stored, and nobody has been told yet.
    Stored,
    After,
}

#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn boundary(_: &CacheKey, _: Place, _: &crate::plan::Step) {}

#[cfg(feature = "failpoints")]
pub use enabled::boundary;

#[cfg(feature = "failpoints")]
mod enabled {
    use std::fs;
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{CacheKey, Place};
    use crate::plan::Step;

    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub fn boundary(key: &CacheKey, place: Place, step: &Step) {
        let setting = |name: &str| std::env::var(name).unwrap_or_default();
        if setting("CACHE_OPERATOR_CRASH_CACHE") != key.to_string() {
            return;
        }
        let name = name(key, place, step);
        let file = setting("CACHE_OPERATOR_CRASH_FILE");
        let fired = fs::read_to_string(&file).unwrap_or_default();
        let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        if !crashes(&setting("CACHE_OPERATOR_CRASH_AT"), &fired, &name, passed) {
            return;
        }
        // A boundary that cannot be noted would be crashed at for ever.
        let mut out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .expect("CACHE_OPERATOR_CRASH_FILE names a file that can be written");
        writeln!(out, "{name}").expect("the crash file can be written");
        tracing::warn!(boundary = name, "crashing as told");
        if setting("CACHE_OPERATOR_CRASH_HOW") == "exec" {
            let program = std::env::current_exe().expect("this program has a path");
            let error = std::process::Command::new(program)
                .args(std::env::args_os().skip(1))
                .exec();
            tracing::error!(%error, "cannot start anew");
        }
        std::process::exit(86);
    }

    fn name(key: &CacheKey, place: Place, step: &Step) -> String {
        let place = match place {
            Place::Before => "before",
            Place::Stored => "stored",
            Place::After => "after",
        };
        let text = step.to_string();
        let line = text.lines().next().unwrap_or_default();
        format!("{key}: {place} {line}")
    }

    fn crashes(at: &str, fired: &str, name: &str, passed: u64) -> bool {
        match at {
            "each" => !fired.lines().any(|line| line == name),
            at => fired.is_empty() && at.parse() == Ok(passed),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::crashes;

        #[test]
        fn each_boundary_once_or_one_by_number() {
            assert!(crashes("each", "", "a", 1));
            assert!(!crashes("each", "b\na\n", "a", 1));
            assert!(crashes("3", "", "a", 3));
            assert!(!crashes("3", "", "a", 2));
            assert!(!crashes("3", "x\n", "a", 3));
            assert!(!crashes("", "", "a", 0));
        }
    }
}
