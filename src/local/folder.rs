//! The state directory of local mode. Files are its API: `caches/<name>/spec.yaml` is the user's, `status.yaml` the
//! loop's.
//!
//! ```text
//! lock                                one `local up` a directory
//! s3.yaml                             how to reach the S3 server (0600)
//! s3/<bucket>/…                       its buckets
//! caches/<cache>/spec.yaml            a Cache manifest
//! caches/<cache>/status.yaml          its uid, generation and status
//! caches/<cache>/events.jsonl         what was done
//! caches/<cache>/control-password     (0600)
//! caches/<cache>/topology.json        the last topology, as nodes read it at their start
//! caches/<cache>/regions.json        the list of regions, likewise
//! caches/<cache>/members/<member>/    member.yaml (its ports), log, pid, data
//! regions/<region>/spec.yaml          a CacheRegion manifest
//! regions/<region>/status.yaml        its status
//! backups/<backup>/spec.yaml          a CacheBackup manifest
//! backups/<backup>/status.yaml        its status
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::leftovers;

/// Paths below a state directory; holding one locks nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFolder {
    root: PathBuf,
}

impl StateFolder {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        StateFolder { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn s3_folder(&self) -> PathBuf {
        self.root.join("s3")
    }

    pub fn s3_file(&self) -> PathBuf {
        self.root.join("s3.yaml")
    }

    pub fn cache(&self, name: &str) -> CacheFolder {
        CacheFolder {
            path: self.root.join("caches").join(name),
        }
    }

    /// The folder of a CacheBackup.
    pub fn backup(&self, name: &str) -> PathBuf {
        self.root.join("backups").join(name)
    }

    /// The folder of a CacheRegion.
    pub fn region(&self, name: &str) -> PathBuf {
        self.root.join("regions").join(name)
    }

    /// Names of the CacheRegions that have a spec, in order.
    pub fn region_names(&self) -> anyhow::Result<Vec<String>> {
        names_below(&self.root.join("regions"))
    }

    /// Names of the Caches that have a spec, in order.
    pub fn cache_names(&self) -> anyhow::Result<Vec<String>> {
        names_below(&self.root.join("caches"))
    }

    /// Names of the CacheBackups that have a spec, in order.
    pub fn backup_names(&self) -> anyhow::Result<Vec<String>> {
        names_below(&self.root.join("backups"))
    }

    /// Whether a `local up` runs on it now.
    pub fn is_in_use(&self) -> bool {
        File::open(self.root.join("lock")).is_ok_and(|file| {
            let locked = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
            drop(file);
            locked
        })
    }
}

fn names_below(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().join("spec.yaml").is_file()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Paths of one Cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFolder {
    path: PathBuf,
}

impl CacheFolder {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn spec(&self) -> PathBuf {
        self.path.join("spec.yaml")
    }

    pub fn status(&self) -> PathBuf {
        self.path.join("status.yaml")
    }

    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    pub fn control_password(&self) -> PathBuf {
        self.path.join("control-password")
    }

    pub fn topology(&self) -> PathBuf {
        self.path.join("topology.json")
    }

    pub fn regions(&self) -> PathBuf {
        self.path.join("regions.json")
    }

    pub fn members(&self) -> PathBuf {
        self.path.join("members")
    }

    pub fn member(&self, member: &str) -> PathBuf {
        self.members().join(member)
    }
}

/// A state directory that this process alone may change, until dropped.
#[derive(Debug)]
pub struct OwnedFolder {
    folder: StateFolder,
    /// Holds the lock.
    _lock: File,
}

impl OwnedFolder {
    /// Locks the directory, making it if need be, and removes what an earlier run left: its processes, and the states of
    /// its Caches, whose data was in those processes' memory. Specs, logs and snapshots stay.
    ///
    /// # Errors
    /// Another `local up` uses it; it cannot be written; it is not a state directory but holds something else.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        refuse_foreign(root)?;
        std::fs::create_dir_all(root)
            .with_context(|| format!("making the state directory {}", root.display()))?;
        let root = root.canonicalize()?;
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(root.join("lock"))
            .with_context(|| format!("opening the state directory {}", root.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another process runs on the state directory {}: stop it, or give another one with --state-dir",
                root.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", root.display()));
            }
        }
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())?;
        let folder = StateFolder { root };
        leftovers::clear(&folder)?;
        Ok(OwnedFolder {
            folder,
            _lock: lock,
        })
    }

    pub fn folder(&self) -> &StateFolder {
        &self.folder
    }
}

/// A mistyped `--state-dir` must not turn someone's folder into ours.
fn refuse_foreign(root: &Path) -> anyhow::Result<()> {
    let Ok(mut entries) = std::fs::read_dir(root) else {
        return Ok(());
    };
    if entries.next().is_some() && !root.join("lock").is_file() {
        bail!(
            "{} is not empty and is not a state directory: give an empty or new one with --state-dir",
            root.display()
        );
    }
    Ok(())
}

/// Writes a file as a whole or not at all.
pub(super) fn write_whole(path: &Path, content: &[u8], secret: bool) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(if secret { 0o600 } else { 0o644 })
            .open(&new)?;
        file.write_all(content)?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
