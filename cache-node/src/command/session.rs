//! What a connection is to its commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::server::registry::{Client, Labels, flag};
use crate::store::Watches;

/// Whether replies are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    #[default]
    On,
    Off,
    /// This command's reply is not.
    Skip,
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    pub client: Arc<Client>,
    pub authenticated: bool,
    pub resp3: bool,
    /// Reads may be served by a replica.
    pub readonly: bool,
    pub reply: ReplyMode,
    /// The next command's reply is not sent.
    pub skip_next: bool,
    /// The connection ends when its replies are sent.
    pub close: bool,
    /// Its command waits for a key.
    pub wait: Option<super::blocking::Wait>,
    /// Commands since `MULTI`.
    pub transaction: Option<Box<super::transactions::Transaction>>,
    /// Keys since `WATCH`.
    pub watches: Option<Box<Watches>>,
}

impl Session {
    pub fn new(client: Arc<Client>, authenticated: bool) -> Self {
        Self {
            client,
            authenticated,
            resp3: false,
            readonly: false,
            reply: ReplyMode::On,
            skip_next: false,
            close: false,
            wait: None,
            transaction: None,
            watches: None,
        }
    }

    /// As after connecting, authenticated or not.
    pub fn reset(&mut self, authenticated: bool) {
        let client = self.client.clone();
        client.flags.store(0, Ordering::Relaxed);
        client.labels.lock().name = Vec::new();
        *self = Self::new(client, authenticated);
    }

    pub fn set_resp3(&mut self, yes: bool) {
        self.resp3 = yes;
        self.client.set(flag::RESP3, yes);
    }

    pub fn set_readonly(&mut self, yes: bool) {
        self.readonly = yes;
        self.client.set(flag::READONLY, yes);
    }

    pub fn labels(&self) -> Labels {
        self.client.labels.lock().clone()
    }
}
