//! The scripts that the node knows, by the SHA-1 of their text. All threads share them; each compiles what it runs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::header::{self, ScriptFlags};
use super::redis_table::sha1_hex;
use crate::limits::{SCRIPTS_BYTES_MAX, SCRIPTS_EVALUATED_MAX};

/// A script.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    /// 40 hex digits.
    pub sha: String,
    pub flags: ScriptFlags,
    text: Vec<u8>,
    /// Where its code begins.
    code: usize,
}

impl Script {
    /// The error says what is wrong with the first line.
    pub fn new(text: &[u8]) -> Result<Self, String> {
        let (flags, code) = header::parse(text)?;
        Ok(Self {
            sha: sha1_hex(text),
            flags,
            text: text.to_vec(),
            code,
        })
    }

    pub fn code(&self) -> &[u8] {
        &self.text[self.code..]
    }

    fn bytes(&self) -> usize {
        self.text.len() + size_of::<Self>() + 3 * 40
    }
}

#[derive(Debug, Default)]
struct Known {
    /// Whether it was loaded: those that were only evaluated make room for others.
    by_sha: HashMap<String, (Arc<Script>, bool)>,
    /// Those that were only evaluated, the oldest first.
    evaluated: VecDeque<String>,
    bytes: usize,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Scripts {
    known: Mutex<Known>,
    /// Counts flushes: a thread whose state is older makes a new one.
    flushes: AtomicU64,
    /// Bytes of all threads' states.
    pub states_bytes: AtomicU64,
}

/// The scripts' memory is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Known {
    fn remove(&mut self, sha: &str) {
        if let Some((script, _)) = self.by_sha.remove(sha) {
            self.bytes -= script.bytes();
        }
    }
}

impl Scripts {
    /// A script that is known.
    pub fn find(&self, sha: &[u8]) -> Option<Arc<Script>> {
        if sha.len() != 40 {
            return None;
        }
        let sha = std::str::from_utf8(sha).ok()?.to_ascii_lowercase();
        self.known.lock().by_sha.get(&sha).map(|(s, _)| s.clone())
    }

    /// Remembers a script that compiles; `loaded`: until a flush.
    pub fn add(&self, script: Arc<Script>, loaded: bool) -> Result<(), Full> {
        let mut known = self.known.lock();
        let sha = &script.sha;
        if let Some((_, was_loaded)) = known.by_sha.get_mut(sha) {
            if loaded && !std::mem::replace(was_loaded, true) {
                known.evaluated.retain(|other| other != sha);
            }
            return Ok(());
        }
        let bytes = script.bytes();
        while known.bytes + bytes > SCRIPTS_BYTES_MAX
            || (!loaded && known.evaluated.len() >= SCRIPTS_EVALUATED_MAX)
        {
            let Some(oldest) = known.evaluated.pop_front() else {
                return Err(Full);
            };
            known.remove(&oldest);
        }
        known.bytes += bytes;
        if !loaded {
            known.evaluated.push_back(sha.clone());
        }
        known.by_sha.insert(sha.clone(), (script, loaded));
        Ok(())
    }

    /// Forgets all.
    pub fn flush(&self) {
        *self.known.lock() = Known::default();
        self.flushes.fetch_add(1, Ordering::AcqRel);
    }

    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// How many there are, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let known = self.known.lock();
        (known.by_sha.len(), known.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Arc<Script> {
        Arc::new(Script::new(text.as_bytes()).unwrap())
    }

    #[test]
    fn evaluated_scripts_make_room_and_loaded_ones_stay() {
        let scripts = Scripts::default();
        let (loaded, first) = (script("return 'loaded'"), script("return 0"));
        assert_eq!(scripts.add(first.clone(), false), Ok(()));
        assert_eq!(scripts.add(loaded.clone(), true), Ok(()));
        assert_eq!(
            scripts.find(first.sha.to_uppercase().as_bytes()),
            Some(first.clone())
        );
        for i in 1..=SCRIPTS_EVALUATED_MAX {
            assert_eq!(scripts.add(script(&format!("return {i}")), false), Ok(()));
        }
        assert_eq!(scripts.find(first.sha.as_bytes()), None);
        assert_eq!(scripts.find(loaded.sha.as_bytes()), Some(loaded.clone()));
        assert_eq!(scripts.size().0, SCRIPTS_EVALUATED_MAX + 1);
        // Loading one that was evaluated keeps it.
        let last = script(&format!("return {SCRIPTS_EVALUATED_MAX}"));
        assert_eq!(scripts.add(last.clone(), true), Ok(()));
        let big = script(&format!("return '{}'", "x".repeat(SCRIPTS_BYTES_MAX - 700)));
        assert_eq!(scripts.add(big, false), Ok(()));
        assert!(scripts.find(last.sha.as_bytes()).is_some());
        assert_eq!(scripts.size().0, 3);
        let bigger = script(&format!("return '{}'", "y".repeat(SCRIPTS_BYTES_MAX)));
        assert_eq!(scripts.add(bigger, true), Err(Full));
        scripts.flush();
        assert_eq!((scripts.size(), scripts.flushes()), ((0, 0), 1));
        assert_eq!(scripts.find(b"x"), None);
    }
}
