//! What a connection is to its commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::tracking::TrackingState;
use super::transactions::Transaction;
use super::wait::AckWait;
use crate::protocol::Reply;
use crate::pubsub::{Kind, Subscriptions};
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
    pub transaction: Option<Box<Transaction>>,
    /// Keys since `WATCH`.
    pub watches: Option<Box<Watches>>,
    pub subscriptions: Option<Box<Subscriptions>>,
    pub tracking: Option<Box<TrackingState>>,
    pub ack_wait: Option<AckWait>,
    /// The error that its command ends with was counted before.
    pub error_is_counted: bool,
    /// When its parked command's time is up, in Unix milliseconds.
    pub due_ms: u64,
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
            subscriptions: None,
            tracking: None,
            ack_wait: None,
            error_is_counted: false,
            due_ms: u64::MAX,
        }
    }

    /// As after connecting, authenticated or not.
    pub fn reset(&mut self, authenticated: bool) {
        let client = self.client.clone();
        client.flags.store(0, Ordering::Relaxed);
        client.labels.lock().name = Vec::new();
        *self = Self::new(client, authenticated);
    }

    /// The slot of a sharded channel that it has subscribed to has left.
    pub fn leave_slot(&mut self, channel: &[u8], reply: &mut Reply<'_>) {
        let Some(all) = self
            .subscriptions
            .as_mut()
            .filter(|all| all.has(Kind::Shard, channel))
        else {
            return;
        };
        all.remove(Kind::Shard, channel);
        reply.push(3);
        reply.text("sunsubscribe");
        reply.bulk(channel);
        reply.integer(all.counted_with(Kind::Shard) as i64);
        if all.count() == 0 {
            self.subscriptions = None;
        }
    }

    /// Tells other threads of it what only this one knows.
    pub fn publish(&self) {
        let of = |t: &Transaction| (t.len() as i64, t.bytes() as u64);
        let (queued, bytes) = self.transaction.as_deref().map_or((-1, 0), of);
        if queued != self.client.queued.load(Ordering::Relaxed) {
            self.client.queued.store(queued, Ordering::Relaxed);
            self.client.queued_bytes.store(bytes, Ordering::Relaxed);
        }
        let redirect = self.tracking.as_ref().map_or(-1, |t| t.redirect() as i64);
        self.client.redirect.store(redirect, Ordering::Relaxed);
        self.client.set(flag::TRACKING, self.tracking.is_some());
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
