//! Passwords from a mounted file, read again when it changes, so that they rotate without a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

use crate::limits::PASSWORDS_MAX;

#[derive(Debug, Error)]
pub enum BadPasswords {
    #[error(
        "cannot read password file {path:?}: {error}; name a readable file with one password a line"
    )]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("password file {path:?} holds no password: write one to its first line")]
    Empty { path: PathBuf },
    #[error(
        "password file {path:?} holds more than {PASSWORDS_MAX} lines: keep the present password and those being rotated out"
    )]
    TooMany { path: PathBuf },
}

/// The passwords of one file: a line each, any of which is accepted, so that an old and a new one overlap during a rotation.
#[derive(Debug)]
pub struct Passwords {
    path: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    stamp: Stamp,
    passwords: Vec<Vec<u8>>,
}

/// What tells that a file has changed.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Passwords {
    pub fn open(path: &Path) -> Result<Self, BadPasswords> {
        let stamp = stamp(path);
        Ok(Self {
            path: path.to_owned(),
            held: Mutex::new(Held {
                stamp,
                passwords: read(path)?,
            }),
        })
    }

    /// Whether it is one of the passwords, in a time that does not depend on how much of it is right.
    pub fn check(&self, offered: &[u8]) -> bool {
        let offered = Sha256::digest(offered);
        let held = self.refreshed();
        let mut right = Choice::from(0);
        for password in &held.passwords {
            right |= Sha256::digest(password).ct_eq(&offered);
        }
        right.into()
    }

    /// The first password: what this node gives to others.
    pub fn first(&self) -> Vec<u8> {
        self.refreshed()
            .passwords
            .first()
            .cloned()
            .unwrap_or_default()
    }

    /// What is held, read again if the file has changed. A file that cannot be read leaves the passwords as they are.
    fn refreshed(&self) -> parking_lot::MutexGuard<'_, Held> {
        let mut held = self.held.lock();
        let now = stamp(&self.path);
        if now != held.stamp && now.is_some() {
            match read(&self.path) {
                Ok(passwords) => {
                    tracing::info!(path = %self.path.display(), "passwords were read again");
                    *held = Held {
                        stamp: now,
                        passwords,
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "passwords stay as they were");
                    held.stamp = now;
                }
            }
        }
        held
    }
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>, BadPasswords> {
    let bytes = fs::read(path).map_err(|error| BadPasswords::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let lines = bytes
        .split(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let passwords: Vec<Vec<u8>> = lines
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    let path = path.to_owned();
    match passwords.len() {
        0 => Err(BadPasswords::Empty { path }),
        n if n > PASSWORDS_MAX => Err(BadPasswords::TooMany { path }),
        _ => Ok(passwords),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let write = |text: &str| {
            // As a mounted Secret changes: another file takes the name.
            let next = dir.path().join("next");
            fs::write(&next, text).unwrap();
            fs::rename(&next, &path).unwrap();
        };
        assert!(matches!(
            Passwords::open(&path),
            Err(BadPasswords::Unreadable { .. })
        ));
        write("\n");
        assert!(matches!(
            Passwords::open(&path),
            Err(BadPasswords::Empty { .. })
        ));
        write("one\r\n");
        let passwords = Passwords::open(&path).unwrap();
        assert!(passwords.check(b"one") && !passwords.check(b"one\n") && !passwords.check(b""));
        write("two\none\n");
        assert!(passwords.check(b"one") && passwords.check(b"two"));
        assert_eq!(passwords.first(), b"two");
        write("two\n");
        assert!(!passwords.check(b"one") && passwords.check(b"two"));
        write("");
        assert!(passwords.check(b"two"));
        fs::remove_file(&path).unwrap();
        assert!(passwords.check(b"two"));
    }
}
