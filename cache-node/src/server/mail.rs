//! What others have for a connection: messages, invalidated keys, lines of MONITOR. Whoever has something puts it into the connection's box
//! and rings its thread, which sends it between two replies.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use mio::Waker;
use parking_lot::Mutex;

/// One thing to be sent.
#[derive(Debug, Clone)]
pub enum Mail {
    /// A push, without its first byte: that says which version of the protocol is spoken.
    Push(Bytes),
    /// To be sent as it is.
    Plain(Bytes),
    /// The slot of a sharded channel has left this node.
    SlotLeft(Bytes),
}

impl Mail {
    fn bytes(&self) -> usize {
        let (Self::Push(bytes) | Self::Plain(bytes) | Self::SlotLeft(bytes)) = self;
        bytes.len() + size_of::<Self>()
    }
}

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

    pub fn put(&self, mail: Mail) {
        let mut letters = self.letters.lock();
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
