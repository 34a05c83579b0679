//! First in, first out: whatever is read.

use super::fifo::Fifo;
use super::{Candidate, Mark, Policy, Print, Queue, Seen, Verdict};

#[derive(Debug, Default)]
pub struct FirstIn(Fifo);

impl Policy for FirstIn {
    fn mark(&self) -> Mark {
        Mark::Nothing
    }

    fn inserted(&mut self, print: Print) {
        self.0.push(print);
    }

    fn next(&mut self) -> Candidate {
        let next = self.0.pop();
        next.map_or(Candidate::Nothing, |p| Candidate::Queued(p, Queue::Main))
    }

    fn judge(&mut self, _: Print, _: Queue, _: Seen) -> Verdict {
        Verdict::Evict
    }

    fn put_back(&mut self, print: Print) {
        self.0.push(print);
    }

    fn score(&self, _: Seen) -> Option<u64> {
        None
    }

    fn entries(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}
