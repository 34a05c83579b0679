//! What others have for a connection: messages, invalidated keys, lines of MONITOR. Whoever has something puts it into the connection's box
//! and rings its thread, which sends it between two replies.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use mio::Waker;
use parking_lot::{Mutex, MutexGuard};

/// One thing to be sent.
#[derive(Debug, Clone)]
pub enum Mail {
    /// A push, without its first byte: that says which version of the protocol is spoken.
    Push(Bytes),
    /// To be sent as it is.
    Plain(Bytes),
    /// The slot of a sharded channel has left this node.
    SlotLeft(Bytes),
    /// Keys that have changed since what is in the box was taken.
    Keys(ChangedKeys),
}

/// Keys of a prefix that somebody tracks.
#[derive(Debug, Clone)]
pub struct ChangedKeys {
    /// The client that tracks.
    tracker: u64,
    prefix: Arc<[u8]>,
    pub keys: BTreeSet<Vec<u8>>,
}

impl Mail {
    fn bytes(&self) -> usize {
        let inner = match self {
            Self::Push(bytes) | Self::Plain(bytes) | Self::SlotLeft(bytes) => bytes.len(),
            Self::Keys(changed) => changed.keys.iter().map(|key| key_bytes(key)).sum(),
        };
        inner + size_of::<Self>()
    }
}

fn key_bytes(key: &[u8]) -> usize {
    key.len() + size_of::<Vec<u8>>()
}

/// Letters, from the last on, that are looked at for one that takes a key as well.
const LETTERS_BACK: usize = 8;

/// How a thread learns which of its connections have mail.
#[derive(Debug)]
pub struct Post {
    waker: Arc<Waker>,
    rung: AtomicBool,
    keys: Mutex<Vec<usize>>,
}

impl Post {
    pub fn new(waker: Arc<Waker>) -> Self {
        Self {
            waker,
            rung: AtomicBool::new(false),
            keys: Mutex::default(),
        }
    }

    fn ring(&self, key: usize) -> io::Result<()> {
        self.keys.lock().push(key);
        match self.rung.swap(true, Ordering::AcqRel) {
            true => Ok(()),
            false => self.waker.wake(),
        }
    }

    /// Whether there is mail.
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// The connections that have mail. One may be named that has none any more.
    pub fn take(&self) -> Vec<usize> {
        // First: what is put from here on rings again.
        self.rung.store(false, Ordering::Release);
        std::mem::take(&mut self.keys.lock())
    }
}

/// A connection's box.
#[derive(Debug, Default)]
pub struct Mailbox {
    letters: Mutex<VecDeque<Mail>>,
    any: AtomicBool,
    bytes: AtomicUsize,
    /// The connection's thread, and what it calls the connection.
    thread: OnceLock<(Arc<Post>, usize)>,
}

impl Mailbox {
    /// Says whom to ring.
    pub fn belongs_to(&self, post: Arc<Post>, key: usize) {
        // A connection stays with its thread.
        let _ = self.thread.set((post, key));
    }

    /// Puts a key of a prefix in, with others of it that nobody has taken yet.
    pub fn put_key(&self, tracker: u64, prefix: &Arc<[u8]>, key: &[u8]) {
        let mut letters = self.letters.lock();
        let last = letters.iter_mut().rev().take(LETTERS_BACK);
        let found = last.filter_map(|mail| match mail {
            Mail::Keys(of) if of.tracker == tracker && of.prefix == *prefix => Some(of),
            _ => None,
        });
        if let Some(of) = found.into_iter().next() {
            if of.keys.insert(key.to_vec()) {
                self.bytes.fetch_add(key_bytes(key), Ordering::Relaxed);
            }
            return;
        }
        self.put_behind(
            letters,
            Mail::Keys(ChangedKeys {
                tracker,
                prefix: prefix.clone(),
                keys: BTreeSet::from([key.to_vec()]),
            }),
        );
    }

    pub fn put(&self, mail: Mail) {
        self.put_behind(self.letters.lock(), mail);
    }

    fn put_behind(&self, mut letters: MutexGuard<'_, VecDeque<Mail>>, mail: Mail) {
        self.bytes.fetch_add(mail.bytes(), Ordering::Relaxed);
        letters.push_back(mail);
        let first = !self.any.swap(true, Ordering::AcqRel);
        drop(letters);
        if let (true, Some((post, key))) = (first, self.thread.get())
            && let Err(error) = post.ring(*key)
        {
            tracing::error!(%error, "cannot wake a server thread");
        }
    }

    pub fn has_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Bytes of what is in it.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn take(&self) -> VecDeque<Mail> {
        let mut letters = self.letters.lock();
        self.any.store(false, Ordering::Release);
        self.bytes.store(0, Ordering::Relaxed);
        std::mem::take(&mut letters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_prefix_are_one_letter_until_it_is_taken() {
        let mailbox = Mailbox::default();
        let prefixes: [Arc<[u8]>; 2] = [b"a"[..].into(), b""[..].into()];
        let put = |tracker, prefix: usize, key: &str| {
            mailbox.put_key(tracker, &prefixes[prefix], key.as_bytes());
        };
        let take = || {
            let letters = mailbox.take();
            assert_eq!(mailbox.bytes(), 0);
            let text = |mail: &Mail| match mail {
                Mail::Keys(of) => {
                    let keys = of.keys.iter().map(|key| String::from_utf8_lossy(key));
                    format!("{}:{}", of.tracker, keys.collect::<Vec<_>>().join(","))
                }
                _ => "other".into(),
            };
            letters.iter().map(text).collect::<Vec<_>>()
        };
        for key in ["ab", "aa", "ab"] {
            put(1, 0, key);
            put(1, 1, key);
            put(2, 0, key);
        }
        mailbox.put(Mail::Plain(Bytes::from_static(b"x")));
        put(1, 0, "ac");
        let held: usize = mailbox.letters.lock().iter().map(Mail::bytes).sum();
        assert_eq!(mailbox.bytes(), held);
        assert_eq!(take(), ["1:aa,ab,ac", "1:aa,ab", "2:aa,ab", "other"]);
        put(1, 0, "aa");
        assert_eq!(take(), ["1:aa"]);
        // No long search.
        put(1, 0, "aa");
        for _ in 0..LETTERS_BACK {
            mailbox.put(Mail::Plain(Bytes::new()));
        }
        put(1, 0, "ab");
        let letters = take();
        assert_eq!((letters.len(), &letters[9][..]), (10, "1:ab"));
    }
}
