//! Who has subscribed to what, and the way of a message to all of them. Publishing locks what names its channel, and each subscriber's box
//! for a moment; commands on keys meet none of these locks.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::command::glob;
use crate::server::mail::Mail;
use crate::server::registry::Client;
use crate::store::effect::write_bulks;
use crate::store::slot_of;

const SHARDS: usize = 64;

/// What a client may subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Channel,
    Pattern,
    /// A channel that belongs to a slot.
    Shard,
}

type Names = RwLock<HashMap<Vec<u8>, Vec<Arc<Client>>>>;

/// See the module's text.
#[derive(Debug)]
pub struct PubSub {
    channels: [Names; SHARDS],
    /// By slot.
    sharded: [Names; SHARDS],
    patterns: Names,
    pattern_count: AtomicUsize,
}

impl Default for PubSub {
    fn default() -> Self {
        Self {
            channels: std::array::from_fn(|_| Names::default()),
            sharded: std::array::from_fn(|_| Names::default()),
            patterns: Names::default(),
            pattern_count: AtomicUsize::new(0),
        }
    }
}

/// Writes a push of bulk strings, without its first byte.
pub fn push_body(words: &[&[u8]]) -> Bytes {
    let mut body = Vec::with_capacity(words.iter().map(|w| w.len() + 16).sum::<usize>() + 8);
    write_bulks(&mut body, words);
    body.into()
}

impl PubSub {
    fn names(&self, kind: Kind, name: &[u8]) -> &Names {
        match kind {
            Kind::Pattern => &self.patterns,
            Kind::Shard => &self.sharded[usize::from(slot_of(name)) % SHARDS],
            Kind::Channel => {
                let hash = xxhash_rust::xxh3::xxh3_64(name);
                &self.channels[hash as usize % SHARDS]
            }
        }
    }

    fn add(&self, kind: Kind, name: &[u8], client: &Arc<Client>) {
        let mut names = self.names(kind, name).write();
        let clients = names.entry(name.to_vec()).or_default();
        clients.push(client.clone());
        if kind == Kind::Pattern {
            self.pattern_count.store(names.len(), Ordering::Release);
        }
    }

    fn remove(&self, kind: Kind, name: &[u8], client: &Client) {
        let mut names = self.names(kind, name).write();
        if let Some(clients) = names.get_mut(name) {
            clients.retain(|c| c.id != client.id);
            if clients.is_empty() {
                names.remove(name);
            }
        }
        if kind == Kind::Pattern {
            self.pattern_count.store(names.len(), Ordering::Release);
        }
    }

    /// Sends a message to this node's subscribers of a channel and of patterns that match it. Gives how many it was sent to.
    pub fn publish(&self, channel: &[u8], message: &[u8]) -> usize {
        let mut sent = self.send(Kind::Channel, channel, b"message", message);
        if self.pattern_count.load(Ordering::Acquire) > 0 {
            for (pattern, clients) in self.patterns.read().iter() {
                if glob::matches(pattern, channel, false) {
                    let body = push_body(&[b"pmessage", pattern, channel, message]);
                    sent += put(clients, &Mail::Push(body));
                }
            }
        }
        sent
    }

    /// As [`PubSub::publish`], for a channel that belongs to a slot.
    pub fn publish_sharded(&self, channel: &[u8], message: &[u8]) -> usize {
        self.send(Kind::Shard, channel, b"smessage", message)
    }

    fn send(&self, kind: Kind, channel: &[u8], word: &[u8], message: &[u8]) -> usize {
        let names = self.names(kind, channel).read();
        let Some(clients) = names.get(channel) else {
            return 0;
        };
        let body = push_body(&[word, channel, message]);
        put(clients, &Mail::Push(body))
    }

    /// Channels with subscribers that match a pattern.
    pub fn active(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Vec<u8>> {
        let all = match kind {
            Kind::Shard => &self.sharded,
            Kind::Channel | Kind::Pattern => &self.channels,
        };
        let matches = |name: &&Vec<u8>| pattern.is_none_or(|p| glob::matches(p, name, false));
        let mut active = Vec::new();
        for names in all {
            active.extend(names.read().keys().filter(matches).cloned());
        }
        active
    }

    /// How many have subscribed to a channel.
    pub fn subscribers(&self, kind: Kind, channel: &[u8]) -> usize {
        let names = self.names(kind, channel).read();
        names.get(channel).map_or(0, Vec::len)
    }

    /// How many patterns have subscribers.
    pub fn patterns(&self) -> usize {
        self.pattern_count.load(Ordering::Acquire)
    }

    /// Ends the subscriptions to channels whose slots are not served here: their clients are told.
    pub fn leave_slots(&self, is_served: impl Fn(u16) -> bool) {
        for names in &self.sharded {
            if names.read().is_empty() {
                continue;
            }
            names.write().retain(|channel, clients| {
                let stays = is_served(slot_of(channel));
                if !stays {
                    put(clients, &Mail::SlotLeft(channel.clone().into()));
                }
                stays
            });
        }
    }
}

fn put(clients: &[Arc<Client>], mail: &Mail) -> usize {
    clients
        .iter()
        .for_each(|client| client.mail.put(mail.clone()));
    clients.len()
}

/// What a connection has subscribed to; dropped, to nothing.
pub struct Subscriptions {
    pubsub: Arc<PubSub>,
    client: Arc<Client>,
    names: [BTreeSet<Vec<u8>>; 3],
}

impl std::fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscriptions({})", self.count())
    }
}

impl Subscriptions {
    pub fn new(pubsub: Arc<PubSub>, client: Arc<Client>) -> Self {
        Self {
            pubsub,
            client,
            names: Default::default(),
        }
    }

    fn tell(&self) {
        for (told, names) in self.client.subscriptions.iter().zip(&self.names) {
            told.store(names.len() as u32, Ordering::Relaxed);
        }
    }

    pub fn add(&mut self, kind: Kind, name: &[u8]) {
        if self.names[kind as usize].insert(name.to_vec()) {
            self.pubsub.add(kind, name, &self.client);
            self.tell();
        }
    }

    pub fn remove(&mut self, kind: Kind, name: &[u8]) {
        if self.names[kind as usize].remove(name) {
            self.pubsub.remove(kind, name, &self.client);
            self.tell();
        }
    }

    /// All names of a kind.
    pub fn names(&self, kind: Kind) -> Vec<Vec<u8>> {
        self.names[kind as usize].iter().cloned().collect()
    }

    /// What a reply to a command about this kind counts: channels and patterns together.
    pub fn counted_with(&self, kind: Kind) -> usize {
        match kind {
            Kind::Shard => self.names[Kind::Shard as usize].len(),
            Kind::Channel | Kind::Pattern => self.names[0].len() + self.names[1].len(),
        }
    }

    pub fn count(&self) -> usize {
        self.names.iter().map(BTreeSet::len).sum()
    }

    /// Whether there is a subscription of a name.
    pub fn has(&self, kind: Kind, name: &[u8]) -> bool {
        self.names[kind as usize].contains(name)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for kind in [Kind::Channel, Kind::Pattern, Kind::Shard] {
            for name in std::mem::take(&mut self.names[kind as usize]) {
                self.pubsub.remove(kind, &name, &self.client);
            }
        }
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: u64) -> Arc<Client> {
        let address = ([127, 0, 0, 1], 1).into();
        Arc::new(Client::new(id, address, address, 0))
    }

    fn received(client: &Client) -> Vec<String> {
        let text = |mail: Mail| match mail {
            Mail::Push(body) | Mail::Plain(body) => {
                let words = String::from_utf8_lossy(&body).into_owned();
                let words = words.split("\r\n").skip(2).step_by(2);
                words.collect::<Vec<_>>().join(" ")
            }
            Mail::Keys(_) => "keys".to_owned(),
            Mail::SlotLeft(channel) => format!("left {}", String::from_utf8_lossy(&channel)),
        };
        client.mail.take().into_iter().map(text).collect()
    }

    #[test]
    fn messages_reach_those_who_subscribed_as_long_as_they_do() {
        let pubsub = Arc::new(PubSub::default());
        let (a, b) = (client(1), client(2));
        let mut of_a = Subscriptions::new(pubsub.clone(), a.clone());
        let mut of_b = Subscriptions::new(pubsub.clone(), b.clone());
        of_a.add(Kind::Channel, b"news");
        of_a.add(Kind::Channel, b"news");
        of_b.add(Kind::Pattern, b"n*");
        of_b.add(Kind::Shard, b"news");
        assert_eq!(pubsub.publish(b"news", b"1"), 2);
        assert_eq!(pubsub.publish(b"other", b"2"), 0);
        assert_eq!(pubsub.publish_sharded(b"news", b"3"), 1);
        assert_eq!(received(&a), ["message news 1"]);
        assert_eq!(received(&b), ["pmessage n* news 1", "smessage news 3"]);
        assert_eq!(
            (
                of_b.counted_with(Kind::Channel),
                of_b.counted_with(Kind::Shard)
            ),
            (1, 1)
        );
        assert_eq!(
            pubsub.active(Kind::Channel, Some(b"n?ws")),
            [b"news".to_vec()]
        );
        assert!(pubsub.active(Kind::Channel, Some(b"x*")).is_empty());
        pubsub.leave_slots(|_| false);
        assert_eq!(received(&b), ["left news"]);
        assert_eq!(pubsub.publish_sharded(b"news", b"4"), 0);
        drop(of_b);
        assert_eq!((pubsub.patterns(), pubsub.publish(b"news", b"5")), (0, 1));
        of_a.remove(Kind::Channel, b"news");
        assert_eq!(pubsub.publish(b"news", b"6"), 0);
        assert!(pubsub.channels.iter().all(|names| names.read().is_empty()));
    }
}
