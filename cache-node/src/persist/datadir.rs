//! The data directory: the last topology and the last list of regions, written so that a crash leaves the old or the new one. One process at a time uses it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cluster::regions::KnownRegions;
use crate::cluster::topology::Known;
use crate::limits::{REGIONS_BYTES_MAX, TOPOLOGY_BYTES_MAX};

const TOPOLOGY: &str = "topology.json";
/// In the data directory, and beside `--topology-file`.
pub const REGIONS: &str = "regions.json";
const LOCK: &str = "lock";

/// See the module's text.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked while open.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let say = |what: &str, e: io::Error| {
            let text = format!("--data-dir {}: {what}: {e}", path.display());
            io::Error::new(e.kind(), text)
        };
        std::fs::create_dir_all(path).map_err(|e| {
            say(
                "cannot make it; choose a directory that this user may write to",
                e,
            )
        })?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|e| {
                say(
                    "cannot write to it; choose one that this user may write to",
                    e,
                )
            })?;
        lock_file(&lock).map_err(|e| {
            say(
                "another process uses it; give each node its own directory",
                e,
            )
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The topology that was kept. A file that is none is put aside, as peers and the operator know a better one.
    pub fn load_topology(&self) -> Option<Known> {
        let path = self.path.join(TOPOLOGY);
        match read_topology(&path) {
            Ok(known) => known,
            Err(error) => {
                let aside = self.path.join("topology.json.unreadable");
                tracing::warn!(%error, aside = %aside.display(), "the kept topology is not readable; put aside");
                if let Err(error) = std::fs::rename(&path, &aside) {
                    tracing::warn!(%error, "cannot put it aside");
                }
                None
            }
        }
    }

    /// Writes the topology, synced to disk.
    pub async fn save_topology(&self, json: &str) -> io::Result<()> {
        self.save(TOPOLOGY, json).await
    }

    /// The list of regions that was kept. One that is not readable is as good as none: the operator pushes it again.
    pub fn load_regions(&self) -> Option<KnownRegions> {
        read_regions(&self.path.join(REGIONS)).unwrap_or_else(|error| {
            tracing::warn!(%error, "the kept list of regions is not readable");
            None
        })
    }

    /// Writes the list of regions, synced to disk.
    pub async fn save_regions(&self, json: &str) -> io::Result<()> {
        self.save(REGIONS, json).await
    }

    async fn save(&self, name: &'static str, json: &str) -> io::Result<()> {
        let (dir, json) = (self.path.clone(), json.to_owned());
        tokio::task::spawn_blocking(move || write_atomically(&dir, name, json.as_bytes()))
            .await
            .map_err(io::Error::other)?
    }
}

/// The topology in a file; None when there is no file.
pub fn read_topology(path: &Path) -> io::Result<Option<Known>> {
    let Some(text) = read_bounded(path, TOPOLOGY_BYTES_MAX)? else {
        return Ok(None);
    };
    let known = Known::parse(&text).map_err(|e| e.to_string());
    known.map(Some).map_err(|e| say(path, e))
}

/// The list of regions in a file; None when there is no file.
pub fn read_regions(path: &Path) -> io::Result<Option<KnownRegions>> {
    let Some(text) = read_bounded(path, REGIONS_BYTES_MAX)? else {
        return Ok(None);
    };
    let known = KnownRegions::parse(&text).map_err(|e| e.to_string());
    known.map(Some).map_err(|e| say(path, e))
}

fn say(path: &Path, problem: String) -> io::Error {
    io::Error::other(format!("{}: {problem}", path.display()))
}

/// What a file holds, if it is there and not empty.
fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(say(path, e.to_string())),
        Ok(meta) if meta.len() > bytes_max as u64 => {
            let problem = format!("{} bytes: {bytes_max} at most", meta.len());
            return Err(say(path, problem));
        }
        Ok(meta) if meta.len() == 0 => return Ok(None),
        Ok(_) => {}
    }
    let text = std::fs::read(path);
    text.map(Some).map_err(|e| say(path, e.to_string()))
}

fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(name))?;
    // The new name is kept only when the directory is synced too.
    File::open(dir)?.sync_all()
}

fn lock_file(file: &File) -> io::Result<()> {
    // `File::try_lock` tells "locked" apart from other errors by its own type.
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "its lock is taken",
        )),
        Err(std::fs::TryLockError::Error(e)) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::topology::tests::TWO;

    #[tokio::test]
    async fn keeps_the_last_topology_and_one_process_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let data = DataDir::open(&path).unwrap();
        assert_eq!(data.load_topology(), None);
        data.save_topology(TWO).await.unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("another process uses it"), "{error}");
        drop(data);
        let data = DataDir::open(&path).unwrap();
        assert_eq!(data.load_topology().unwrap().topology.epoch, 7);
        assert!(!path.join("topology.json.new").exists());
        std::fs::write(path.join(TOPOLOGY), "{").unwrap();
        assert_eq!(data.load_topology(), None);
        assert!(path.join("topology.json.unreadable").exists());
    }
}
