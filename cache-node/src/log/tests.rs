//! A follower ends up with what the store holds, whatever many threads write while it copies.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::store::{StoreOptions, slot_of};

const NOW: u64 = 1_000;
const WRITES: u64 = 40_000;

fn node(backlog: usize) -> (Arc<Store>, Arc<Log>) {
    let log = Arc::new(Log::new(backlog));
    let options = StoreOptions {
        max_memory: 0,
        hash_seed: 1,
    };
    let store = Store::new(options, log.clone()).unwrap();
    (Arc::new(store), log)
}

type Copy = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

fn place(key: &[u8]) -> (u16, Vec<u8>) {
    (slot_of(key), key.to_vec())
}

/// Applies commands as a follower would; only those that the test writes.
fn apply(to: &mut Copy, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let mut args: Vec<Vec<u8>> = Vec::new();
        let count = number(&mut bytes, b'*');
        for _ in 0..count {
            let length = number(&mut bytes, b'$');
            args.push(bytes[..length].to_vec());
            bytes = &bytes[length + 2..];
        }
        match &args[0][..] {
            b"SET" => {
                to.insert(place(&args[1]), args[2].clone());
            }
            b"APPEND" => to.entry(place(&args[1])).or_default().extend(&args[2]),
            b"DEL" => {
                to.remove(&place(&args[1]));
            }
            b"FLUSHALL" => to.clear(),
            b"CACHE.FLUSHSLOT" => {
                let slot: u16 = String::from_utf8_lossy(&args[1]).parse().unwrap();
                let mut rest = to.split_off(&(slot, Vec::new()));
                to.append(&mut rest.split_off(&(slot + 1, Vec::new())));
            }
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
}

fn number(bytes: &mut &[u8], sigil: u8) -> usize {
    assert_eq!(bytes[0], sigil);
    let end = bytes.iter().position(|&b| b == b'\r').unwrap();
    let n = std::str::from_utf8(&bytes[1..end])
        .unwrap()
        .parse()
        .unwrap();
    *bytes = &bytes[end + 2..];
    n
}

/// Threads that write a fixed number of times, so that a slow reader ends too.
fn writers(store: &Arc<Store>, log: &Arc<Log>, threads: u64) -> Vec<JoinHandle<()>> {
    (0..threads)
        .map(|thread| {
            let (store, log) = (store.clone(), log.clone());
            std::thread::spawn(move || {
                let mut random = crate::store::tests::Lcg(thread);
                let mut written: u64 = 0;
                while written < WRITES {
                    if !log.has_credit() {
                        std::thread::yield_now();
                        continue;
                    }
                    let key = format!("key:{}", random.below(4_000)).into_bytes();
                    let p = store.point(&key);
                    let mut guard = store.lock(p.slot);
                    match random.below(8) {
                        0 => drop(guard.remove(p, &key, NOW)),
                        1 | 2 => drop(guard.append(p, &key, b"+", NOW)),
                        _ => {
                            let value = format!("{thread}:{written}");
                            guard.set(p, &key, value.as_bytes(), None).unwrap();
                        }
                    }
                    drop(guard);
                    if thread == 0 && random.below(20_000) == 0 {
                        store.lock_all().clear_all();
                    }
                    written += 1;
                }
            })
        })
        .collect()
}

fn contents(store: &Store, slots: &SlotSet) -> Copy {
    let mut all = BTreeMap::new();
    for slot in slots.iter() {
        let mut guard = store.lock(slot);
        let mut pos = Some(0);
        while let Some(at) = pos {
            pos = guard.walk(slot, at, 100, NOW, &mut |item| {
                all.insert(place(item.key()), item.value().to_vec());
            });
        }
    }
    all
}

async fn follow(slots: SlotSet, then_the_log: bool) {
    let (store, log) = node(1 << 30);
    log.activate(&store);
    let threads = writers(&store, &log, 3);
    let walk = log.attach_walk(slots.clone());
    let mut copy = BTreeMap::new();
    let (_, reached) = tokio::join!(walk.copy(&store, || NOW, |_| {}), async {
        loop {
            match walk.next().await.unwrap() {
                WalkEvent::Commands(commands) => apply(&mut copy, &commands),
                WalkEvent::Mark { position, .. } => break position,
            }
        }
    });
    let mut reader = log.reader(reached.offset).unwrap();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let end = log.settle().await;
    if then_the_log {
        drop(walk);
        let mut offset = reached.offset;
        while offset < end.offset {
            let records = reader.next(100_000).await.expect("within the backlog");
            assert_eq!(records.offset, offset);
            let mut bytes = &records.bytes[..];
            offset += bytes.len() as u64;
            while !bytes.is_empty() {
                let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
                apply(&mut copy, &bytes[4..4 + length]);
                bytes = &bytes[4 + length..];
            }
        }
    } else {
        let mark = walk.mark();
        loop {
            match walk.next().await.unwrap() {
                WalkEvent::Commands(commands) => apply(&mut copy, &commands),
                WalkEvent::Mark { mark: m, .. } if m == mark => break,
                WalkEvent::Mark { .. } => {}
            }
        }
    }
    assert_eq!(copy, contents(&store, &slots));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_copy_and_the_log_after_it_make_the_same_store() {
    for _ in 0..4 {
        follow(SlotSet::all(), true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_some_slots_follows_those_slots_only() {
    for _ in 0..4 {
        follow((2_000..9_000).collect(), false).await;
    }
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_so() {
    let (store, log) = node(1 << 20);
    log.activate(&store);
    let mut reader = log.reader(0).unwrap();
    for i in 0..3_000u32 {
        let key = i.to_string().into_bytes();
        let p = store.point(&key);
        store.lock(p.slot).set(p, &key, &[0; 1_000], None).unwrap();
        log.settle().await;
    }
    assert!(reader.next(1 << 20).await.is_none());
    assert!(log.reader(0).is_none());
    let end = log.position().offset;
    assert!(log.reader(end).is_some() && log.reader(end + 1).is_none());
}

#[tokio::test]
async fn several_writes_of_one_guard_are_one_record() {
    let (store, log) = node(1 << 20);
    log.activate(&store);
    let (a, b) = (store.point(b"a"), store.point(b"b"));
    let mut guard = store.lock_slots(&[a.slot, b.slot]);
    guard.set(a, b"a", b"1", None).unwrap();
    guard.set(b, b"b", b"2", None).unwrap();
    drop(guard);
    log.settle().await;
    let records = log.reader(0).unwrap().next(1 << 20).await.unwrap().bytes;
    let length = u32::from_le_bytes([records[0], records[1], records[2], records[3]]) as usize;
    assert_eq!(length + 4, records.len());
    let mut copy = BTreeMap::new();
    apply(&mut copy, &records[4..]);
    assert_eq!(copy.len(), 2);
}

/// What is written while nobody follows costs no ticket, and no position of before is gone on from.
#[tokio::test]
async fn a_log_that_is_off_holds_nothing_and_is_not_continued() {
    let (store, log) = node(1 << 20);
    let write = |key: &[u8]| {
        let p = store.point(key);
        store.lock(p.slot).set(p, key, b"v", None).unwrap();
    };
    log.activate(&store);
    write(b"logged");
    let before = log.settle().await;
    let mut reader = log.reader(before.offset).unwrap();
    // It may be in a lane still when the log goes off.
    write(b"last");
    log.deactivate(&store);
    let tickets = log.shared.lanes.taken();
    write(b"not logged");
    let off = log.settle().await;
    assert_eq!((log.is_active(), log.backlog_bytes()), (false, 0));
    assert_eq!(log.shared.lanes.taken(), tickets);
    assert!(off.offset > before.offset);
    assert!(reader.next(1 << 20).await.is_none() && log.reader(before.offset).is_none());
    log.activate(&store);
    let mut reader = log.reader(off.offset).unwrap();
    write(b"again");
    log.settle().await;
    let records = reader.next(1 << 20).await.unwrap();
    let mut copy = BTreeMap::new();
    apply(&mut copy, &records.bytes[4..]);
    assert_eq!(copy.into_keys().collect::<Vec<_>>(), [place(b"again")]);
}

const NAMES: u64 = 24;

fn big(name: u64) -> Vec<u8> {
    format!("{{t}}big:{name}").into_bytes()
}

/// Gives big values of one slot other keys, and changes them.
fn transfers(store: &Store, log: &Log) {
    let mut random = crate::store::tests::Lcg(9);
    let mut done: u32 = 0;
    while done < 3_000 {
        if !log.has_credit() {
            std::thread::yield_now();
            continue;
        }
        done += 1;
        let (a, b) = (big(random.below(NAMES)), big(random.below(NAMES)));
        let (p, q) = (store.point(&a), store.point(&b));
        let mut guard = store.lock(p.slot);
        match random.below(8) {
            0 | 1 if a != b => drop(guard.transfer((p, &a), (q, &b), true, NOW).unwrap()),
            2 if a != b => drop(guard.transfer((p, &a), (q, &b), false, NOW).unwrap()),
            3 => drop(guard.remove(p, &a, NOW)),
            4 => guard.set(p, &a, &vec![done as u8; 20_000], None).unwrap(),
            _ => {
                let texts: Vec<String> = (0..30).map(|i| format!("{}", i * done % 97)).collect();
                let pairs: Vec<(&[u8], &[u8])> = texts
                    .iter()
                    .map(|t| (t.as_bytes(), b"v".as_slice()))
                    .collect();
                // What holds a string stays as it is.
                let _ = guard.hash_set(p, &a, &pairs, NOW);
            }
        }
    }
}

/// Everything in a store, collections as text.
fn shown(store: &Store) -> BTreeMap<Vec<u8>, String> {
    let slot = slot_of(b"{t}");
    let mut all = BTreeMap::new();
    let mut pos = Some(0);
    while let Some(at) = pos {
        let mut guard = store.lock(slot);
        pos = guard.walk(slot, at, 100, NOW, &mut |item| {
            let text = match item.kind() {
                crate::store::Kind::String => item.value().bytes().escape_ascii().to_string(),
                kind => {
                    let elements = item.view().elements(kind, 0);
                    let mut elements: Vec<_> = elements.map(|e| format!("{e:?}")).collect();
                    elements.sort();
                    elements.concat()
                }
            };
            assert!(all.insert(item.key().to_vec(), text).is_none());
        });
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_are_given_other_keys_reach_followers_wherever_these_have_come_to() {
    use crate::replicate::effects::{Source, apply_copied, apply_records};
    for _ in 0..2 {
        let ((store, log), (follower, _)) = (node(1 << 30), node(0));
        store.packing.hash_entries.store(4, Ordering::Relaxed);
        log.activate(&store);
        for i in 0..4_000 {
            let key = format!("{{t}}small:{i}").into_bytes();
            let p = store.point(&key);
            store.lock(p.slot).set(p, &key, b"v", None).unwrap();
        }
        let writer = {
            let (store, log) = (store.clone(), log.clone());
            std::thread::spawn(move || transfers(&store, &log))
        };
        let walk = log.attach_walk(SlotSet::all());
        let (_, reached) = tokio::join!(walk.copy(&store, || NOW, |_| {}), async {
            loop {
                match walk.next().await.unwrap() {
                    WalkEvent::Commands(commands) => {
                        apply_copied(&follower, &commands, Source::Primary).unwrap();
                    }
                    WalkEvent::Mark { position, .. } => break position,
                }
            }
        });
        drop(walk);
        let mut reader = log.reader(reached.offset).unwrap();
        writer.join().unwrap();
        transfers(&store, &log);
        let end = log.settle().await;
        let mut offset = reached.offset;
        while offset < end.offset {
            let records = reader.next(100_000).await.expect("within the backlog");
            offset += records.bytes.len() as u64;
            apply_records(&follower, &records.bytes).unwrap();
        }
        assert_eq!(shown(&follower), shown(&store));
        assert!(log.shared.walks.has_no_transfers());
    }
}

#[tokio::test]
async fn a_big_value_that_is_given_another_key_is_logged_by_its_names() {
    let (store, log) = node(1 << 30);
    log.activate(&store);
    let texts: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
    let members: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let (a, b, c) = (b"{t}a", b"{t}b", b"{t}c");
    let p = store.point(a);
    store.lock(p.slot).set_add(p, a, &members, NOW).unwrap();
    let before = log.settle().await.offset;
    let mut guard = store.lock(p.slot);
    let (q, r) = (store.point(b), store.point(c));
    assert_eq!(guard.transfer((p, a), (q, b), true, NOW), Ok(true));
    assert_eq!(guard.transfer((q, b), (r, c), false, NOW), Ok(true));
    drop(guard);
    let written = log.settle().await.offset - before;
    assert!(written < 200, "{written} bytes for two transfers");
}
