//! S3-FIFO (SOSP 2023): new items pass a small queue, a tenth of all; what was read twice there goes on to the main queue, the rest goes, and
//! is remembered for a while: what comes back then goes to the main queue at once. There, what was read goes round again.

use super::fifo::Fifo;
use super::ghost::Ghost;
use super::{Candidate, Mark, Policy, Print, Queue, Seen, Verdict};

/// The small queue's part of all items: one in ten.
const SMALL_PART: usize = 10;
/// Reads in the small queue that make an item one of the main queue.
const PROMOTED_FROM: u8 = 2;

#[derive(Debug, Default)]
pub struct S3Fifo {
    small: Fifo,
    main: Fifo,
    ghost: Ghost,
    /// The last candidate was from the small queue.
    last_small: bool,
    /// And it may not go now: the next comes from the other queue.
    turned: bool,
}

impl Policy for S3Fifo {
    fn mark(&self) -> Mark {
        Mark::Heat
    }

    fn inserted(&mut self, print: Print) {
        if self.ghost.take(print) {
            self.main.push(print);
        } else {
            self.small.push(print);
        }
    }

    fn next(&mut self) -> Candidate {
        let all = self.small.len() + self.main.len();
        let small_is_next = match std::mem::take(&mut self.turned) {
            true => !self.last_small,
            false => self.small.len() * SMALL_PART >= all,
        };
        let from_small = small_is_next && !self.small.is_empty();
        self.last_small = from_small || self.main.is_empty();
        let (queue, from) = match self.last_small {
            true => (&mut self.small, Queue::Small),
            false => (&mut self.main, Queue::Main),
        };
        queue
            .pop()
            .map_or(Candidate::Nothing, |print| Candidate::Queued(print, from))
    }

    fn judge(&mut self, print: Print, from: Queue, seen: Seen) -> Verdict {
        match from {
            Queue::Small if seen.heat >= PROMOTED_FROM => {
                self.main.push(print);
                Verdict::Keep(0)
            }
            Queue::Small => {
                let all = self.small.len() + self.main.len() + 1;
                self.ghost.resize(all - all / SMALL_PART);
                self.ghost.add(print);
                Verdict::Evict
            }
            Queue::Main if seen.heat > 0 => {
                self.main.push(print);
                Verdict::Keep(seen.heat - 1)
            }
            Queue::Main => Verdict::Evict,
        }
    }

    fn put_back(&mut self, print: Print) {
        self.main.push(print);
        self.turned = true;
    }

    fn score(&self, _: Seen) -> Option<u64> {
        None
    }

    fn entries(&self) -> usize {
        self.small.len() + self.main.len()
    }

    fn bytes(&self) -> usize {
        self.small.bytes() + self.main.bytes() + self.ghost.bytes()
    }
}
