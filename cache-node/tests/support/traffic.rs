//! What a cluster client writes to real processes, and what of it must be there afterwards.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cache_node::control::resp::Reply;
use cache_node::store::slot_of;

use super::process::{APP_PASSWORD, Client, Process};
use super::wait_until;

type Written = Arc<Mutex<BTreeMap<String, (u64, u64)>>>;

/// A cluster client that follows MOVED and connects anew; writes counters, so that it knows what must be there.
pub struct Writer {
    seeds: Vec<SocketAddr>,
    connections: BTreeMap<SocketAddr, Client>,
    owners: BTreeMap<u16, SocketAddr>,
    /// For each key the last value that was acknowledged, and the last that was tried.
    written: Written,
    pub errors: BTreeMap<String, u64>,
}

impl Writer {
    fn new(seeds: &[u16]) -> Self {
        Self {
            seeds: seeds.iter().map(|&p| ([127, 0, 0, 1], p).into()).collect(),
            connections: BTreeMap::new(),
            owners: BTreeMap::new(),
            written: Written::default(),
            errors: BTreeMap::new(),
        }
    }

    fn try_at(&mut self, address: SocketAddr, command: &[&[u8]]) -> std::io::Result<Reply> {
        let client = match self.connections.entry(address) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(Client::connect(address, APP_PASSWORD)?),
        };
        let reply = client.ask(command);
        if reply.is_err() {
            self.connections.remove(&address);
        }
        reply
    }

    /// Writes until it is acknowledged, or `stop`.
    fn write(&mut self, key: &str, stop: &AtomicBool) {
        let slot = slot_of(key.as_bytes());
        let value = {
            let mut written = self.written.lock().unwrap();
            let (_, tried) = written.entry(key.into()).or_default();
            *tried += 1;
            *tried
        };
        let text = value.to_string();
        let mut turn = 0;
        while !stop.load(Ordering::Relaxed) {
            let address = self
                .owners
                .get(&slot)
                .copied()
                .unwrap_or(self.seeds[turn % self.seeds.len()]);
            turn += 1;
            match self.try_at(address, &[b"SET", key.as_bytes(), text.as_bytes()]) {
                Ok(Reply::Simple(_)) => {
                    self.written
                        .lock()
                        .unwrap()
                        .insert(key.into(), (value, value));
                    return;
                }
                Ok(Reply::Error(error)) => {
                    if let Some(to) = error.strip_prefix(&format!("MOVED {slot} ")) {
                        self.owners.insert(slot, to.parse().unwrap());
                        continue;
                    }
                    let code = error.split(' ').next().unwrap().to_owned();
                    *self.errors.entry(code).or_default() += 1;
                    self.owners.remove(&slot);
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => {
                    self.owners.remove(&slot);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

/// A key of slot 4106.
const MARK: &str = "mark1";

pub struct Load {
    stop: Arc<AtomicBool>,
    written: Written,
    thread: std::thread::JoinHandle<Writer>,
}

impl Load {
    /// `keys`: which keys are written, by number.
    pub fn start(seeds: &[u16], keys: usize, wanted: impl Fn(u16) -> bool) -> Self {
        let names: Vec<String> = (0..)
            .map(|i| format!("key:{i}"))
            .filter(|k| wanted(slot_of(k.as_bytes())))
            .take(keys)
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (until, mut writer) = (stop.clone(), Writer::new(seeds));
        let written = writer.written.clone();
        let thread = std::thread::spawn(move || {
            for name in names.iter().cycle() {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                writer.write(name, &until);
            }
            writer
        });
        Self {
            stop,
            written,
            thread,
        }
    }

    /// What is acknowledged by now, once the replicas have it too: they have a mark that was written after it.
    pub fn replicated(&self, primary: &Process, replicas: &[&Process]) -> BTreeMap<String, u64> {
        let acked = {
            let mut written = self.written.lock().unwrap();
            let acked = written.iter().map(|(k, w)| (k.clone(), w.0)).collect();
            written.insert(MARK.into(), (1, 1));
            acked
        };
        let set = primary.app().unwrap().ask(&[b"SET", MARK.as_bytes(), b"1"]);
        assert_eq!(set.unwrap(), Reply::ok());
        for replica in replicas {
            let mut client = replica.app().unwrap();
            client.ask(&[b"READONLY"]).unwrap();
            wait_until("a replica has the mark", || {
                client.ask(&[b"GET", MARK.as_bytes()]).unwrap() == Reply::text("1")
            });
        }
        acked
    }

    pub fn stop(self) -> Writer {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What the nodes hold together; no key twice.
pub fn held(nodes: &[&Process]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for node in nodes {
        let mut client = node.app().unwrap();
        for key in node.keys() {
            let key = String::from_utf8(key).unwrap();
            let value = match client.ask(&[b"GET", key.as_bytes()]).unwrap() {
                Reply::Bulk(value) => String::from_utf8(value).unwrap().parse().unwrap(),
                other => panic!("{}: {key}: {other:?}", node.name),
            };
            assert!(all.insert(key, value).is_none(), "a key is held twice");
        }
    }
    all
}

/// Each key has its last acknowledged value, or one that was tried after it. Gives how many acknowledged writes are gone.
pub fn lost(writer: &Writer, held: &BTreeMap<String, u64>) -> u64 {
    let mut lost = 0;
    let written = writer.written.lock().unwrap();
    for (key, (acked, tried)) in written.iter() {
        let value = held.get(key).copied().unwrap_or(0);
        assert!(
            value <= *tried,
            "{key} has {value}, which was never written"
        );
        lost += acked.saturating_sub(value);
    }
    assert!(
        held.keys().all(|k| written.contains_key(k)),
        "keys that nobody wrote"
    );
    lost
}

/// After a crash: only writes that were acknowledged and not replicated by then are gone.
pub fn keeps(writer: &Writer, held: &BTreeMap<String, u64>, replicated: &BTreeMap<String, u64>) {
    let gone = lost(writer, held);
    for (key, value) in replicated {
        assert!(
            held.get(key).copied().unwrap_or(0) >= *value,
            "{key} lost a replicated write"
        );
    }
    println!("{gone} acknowledged writes were not replicated at the crash");
}
