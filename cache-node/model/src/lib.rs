//! The log's lanes and the server's wakers over loom's primitives: the tests try every interleaving of a few threads.

#[path = "../../src/log/lanes.rs"]
pub mod lanes;
// The lanes know one of them.
#[allow(dead_code)]
#[path = "../../src/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "../../src/store/order.rs"]
mod order;
mod sync;
#[path = "../../src/wakers.rs"]
pub mod wakers;

#[cfg(test)]
mod locks;
#[cfg(test)]
mod parking;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::lanes::{Entry, Lanes, index, read};

    /// Two writers change one key under its lock; the merger must see both changes, in the order in which they happened, and never sleep
    /// on something that is there.
    #[test]
    fn tickets_follow_the_order_of_changes_and_no_wake_up_is_lost() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let lanes = Arc::new(Lanes::default());
            let key = Arc::new(Mutex::new(0u8));
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    let (lanes, key) = (lanes.clone(), key.clone());
                    thread::spawn(move || {
                        let mut value = key.lock().unwrap();
                        *value += 1;
                        lanes.push(Entry::Effects(&[*value]));
                    })
                })
                .collect();
            let mut merged = BTreeMap::new();
            let mut drained = Vec::new();
            while merged.len() < 2 {
                if !lanes.drain(&mut drained) {
                    lanes.wait();
                    continue;
                }
                for buffer in drained.drain(..) {
                    for (ticket, body, end) in index(&buffer) {
                        let Entry::Effects(value) = read(&buffer[body..end]) else {
                            panic!("only effects were pushed");
                        };
                        assert!(merged.insert(ticket, value[0]).is_none());
                    }
                }
            }
            assert_eq!(merged.into_iter().collect::<Vec<_>>(), [(0, 1), (1, 2)]);
            for writer in writers {
                writer.join().unwrap();
            }
        });
    }

    /// Closing wakes a merger that sleeps.
    #[test]
    fn closing_wakes_the_merger() {
        loom::model(|| {
            let lanes = Arc::new(Lanes::default());
            let merger = {
                let lanes = lanes.clone();
                thread::spawn(move || {
                    while !lanes.is_closed() {
                        lanes.wait();
                    }
                })
            };
            lanes.close();
            merger.join().unwrap();
        });
    }
}
