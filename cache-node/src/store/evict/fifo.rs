//! A queue of fingerprints, four bytes each, in blocks: it grows and shrinks without copying what it holds.

use std::collections::VecDeque;

use super::Print;

/// Fingerprints of a block.
const BLOCK: usize = 4096;

/// First in, first out.
#[derive(Debug, Default)]
pub struct Fifo {
    blocks: VecDeque<Box<[Print; BLOCK]>>,
    /// Of the first block, how many are gone.
    head: usize,
    /// Of the last block, how many are there.
    tail: usize,
    /// An emptied block, kept for the next.
    spare: Option<Box<[Print; BLOCK]>>,
}

impl Fifo {
    pub fn len(&self) -> usize {
        match self.blocks.len() {
            0 => 0,
            blocks => (blocks - 1) * BLOCK + self.tail - self.head,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> usize {
        (self.blocks.len() + usize::from(self.spare.is_some())) * BLOCK * size_of::<Print>()
    }

    pub fn push(&mut self, print: Print) {
        if self.blocks.is_empty() || self.tail == BLOCK {
            let spare = self.spare.take();
            self.blocks
                .push_back(spare.unwrap_or_else(|| Box::new([Print::default(); BLOCK])));
            self.tail = 0;
        }
        if let Some(last) = self.blocks.back_mut() {
            last[self.tail] = print;
            self.tail += 1;
        }
    }

    fn at(&mut self, index: usize) -> &mut Print {
        let at = self.head + index;
        &mut self.blocks[at / BLOCK][at % BLOCK]
    }

    /// As [`Fifo::pop`], but any of them: the first takes its place.
    pub fn pop_any(&mut self, random: u64) -> Option<Print> {
        let len = self.len();
        if len > 0 {
            let first = *self.at(0);
            let any = std::mem::replace(self.at(random as usize % len), first);
            *self.at(0) = any;
        }
        self.pop()
    }

    pub fn pop(&mut self) -> Option<Print> {
        if self.is_empty() {
            return None;
        }
        let print = self.blocks.front()?[self.head];
        self.head += 1;
        if self.head == BLOCK || self.is_empty() {
            self.spare = self.blocks.pop_front();
            self.head = 0;
        }
        Some(print)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_goes_first() {
        let mut fifo = Fifo::default();
        let (mut next, mut expected) = (0u32, 0u32);
        for round in 0..60u32 {
            for _ in 0..round * 97 % 5_000 {
                fifo.push(Print(next));
                next += 1;
            }
            for _ in 0..round * 61 % 5_000 {
                match fifo.pop() {
                    Some(print) => {
                        assert_eq!(print, Print(expected));
                        expected += 1;
                    }
                    None => assert_eq!(expected, next),
                }
            }
            assert_eq!(fifo.len(), (next - expected) as usize);
        }
        let mut left = Vec::new();
        while let Some(print) = fifo.pop_any(u64::from(expected) * 0x9E37_79B9) {
            left.push(print.0);
            expected += 1;
        }
        assert!(!left.is_sorted());
        left.sort_unstable();
        assert_eq!(left, (next - left.len() as u32..next).collect::<Vec<u32>>());
        assert_eq!((expected, fifo.len(), fifo.blocks.len()), (next, 0, 0));
    }
}
