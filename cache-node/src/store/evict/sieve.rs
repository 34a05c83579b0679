//! SIEVE (NSDI 2024): a hand goes from the oldest item to the newest; what was read since it last passed stays where it is, the first that
//! was not goes.
//!
//! The queue is in two parts: what the hand has passed, and what is before it. An item that stays moves from the one to the other, so the
//! order is that of one list; when nothing is before the hand it begins again with what it has passed.

use super::fifo::Fifo;
use super::{Candidate, Mark, Policy, Print, Queue, Seen, Verdict};

#[derive(Debug, Default)]
pub struct Sieve {
    passed: Fifo,
    ahead: Fifo,
}

impl Policy for Sieve {
    fn mark(&self) -> Mark {
        Mark::Heat
    }

    fn inserted(&mut self, print: Print) {
        self.ahead.push(print);
    }

    fn next(&mut self) -> Candidate {
        if self.ahead.is_empty() {
            std::mem::swap(&mut self.passed, &mut self.ahead);
        }
        let next = self.ahead.pop();
        next.map_or(Candidate::Nothing, |p| Candidate::Queued(p, Queue::Main))
    }

    fn judge(&mut self, print: Print, _: Queue, seen: Seen) -> Verdict {
        if seen.heat == 0 {
            return Verdict::Evict;
        }
        self.passed.push(print);
        Verdict::Keep(0)
    }

    fn put_back(&mut self, print: Print) {
        self.passed.push(print);
    }

    fn score(&self, _: Seen) -> Option<u64> {
        None
    }

    fn entries(&self) -> usize {
        self.passed.len() + self.ahead.len()
    }

    fn bytes(&self) -> usize {
        self.passed.bytes() + self.ahead.bytes()
    }
}
