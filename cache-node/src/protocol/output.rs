//! What waits to be sent to a client: small replies in one buffer, large values by reference, sent together with `writev`.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;

use crate::limits::BUFFER_KEEP;

/// Slices given to one `writev`.
const SLICES: usize = 64;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that are sent.
    sent: usize,
    /// Values that belong before `bytes[at]`.
    shared: VecDeque<Shared>,
    /// Bytes of the first shared value that are sent.
    shared_sent: usize,
    /// Bytes of all that is not sent.
    pending: usize,
}

#[derive(Debug)]
struct Shared {
    at: usize,
    value: Bytes,
}

/// A place in the output, to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    bytes: usize,
    shared: usize,
}

impl Output {
    /// Bytes that are not sent yet.
    pub fn pending(&self) -> usize {
        self.pending
    }

    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pending += bytes.len();
    }

    pub fn push_byte(&mut self, byte: u8) {
        self.bytes.push(byte);
        self.pending += 1;
    }

    /// Adds a bulk string: its length, itself, and the line ends.
    pub fn push_bulk(&mut self, bytes: &[u8]) {
        let mut length = itoa::Buffer::new();
        let length = length.format(bytes.len()).as_bytes();
        let size = 1 + length.len() + 2 + bytes.len() + 2;
        self.bytes.reserve(size);
        self.bytes.push(b'$');
        self.bytes.extend_from_slice(length);
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
        self.pending += size;
    }

    /// Adds a bulk string of so many bytes, which `fill` writes.
    pub fn push_filled(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(length).as_bytes();
        self.pending += 1 + digits.len() + 2 + length + 2;
        self.bytes.push(b'$');
        self.bytes.extend_from_slice(digits);
        self.bytes.extend_from_slice(b"\r\n");
        let at = self.bytes.len();
        self.bytes.resize(at + length, 0);
        fill(&mut self.bytes[at..]);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Adds a value without copying it.
    pub fn push_shared(&mut self, value: Bytes) {
        if value.is_empty() {
            return;
        }
        self.pending += value.len();
        let at = self.bytes.len();
        self.shared.push_back(Shared { at, value });
    }

    /// The present end. Valid until the next [`Output::write_to`].
    pub fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes.len(),
            shared: self.shared.len(),
        }
    }

    /// Takes back everything after the mark.
    pub fn truncate(&mut self, mark: Mark) {
        self.pending -= self.bytes.len() - mark.bytes;
        self.bytes.truncate(mark.bytes);
        while self.shared.len() > mark.shared {
            if let Some(shared) = self.shared.pop_back() {
                self.pending -= shared.value.len();
            }
        }
    }

    /// Takes everything after the mark out, in one piece.
    pub fn take_from(&mut self, mark: Mark) -> Vec<u8> {
        let mut taken = Vec::new();
        let mut from = mark.bytes;
        for shared in self.shared.range(mark.shared..) {
            taken.extend_from_slice(&self.bytes[from..shared.at]);
            taken.extend_from_slice(&shared.value);
            from = shared.at;
        }
        taken.extend_from_slice(&self.bytes[from..]);
        self.truncate(mark);
        taken
    }

    /// Sends what it can with one `writev`. Gives the bytes sent.
    pub fn write_to(&mut self, to: &mut impl Write) -> io::Result<usize> {
        if self.shared.is_empty() {
            let sent = to.write(&self.bytes[self.sent..])?;
            self.advance(sent);
            return Ok(sent);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = self.fill(&mut slices);
        let sent = to.write_vectored(&slices[..count])?;
        self.advance(sent);
        Ok(sent)
    }

    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut count = 0;
        let mut from = self.sent;
        let mut skip = self.shared_sent;
        for shared in &self.shared {
            if count + 2 >= SLICES {
                return count;
            }
            if from < shared.at {
                slices[count] = IoSlice::new(&self.bytes[from..shared.at]);
                count += 1;
                from = shared.at;
            }
            slices[count] = IoSlice::new(&shared.value[skip..]);
            count += 1;
            skip = 0;
        }
        if from < self.bytes.len() {
            slices[count] = IoSlice::new(&self.bytes[from..]);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut sent: usize) {
        self.pending -= sent;
        while sent > 0 {
            let until = self.shared.front().map_or(self.bytes.len(), |s| s.at);
            let small = sent.min(until - self.sent);
            self.sent += small;
            sent -= small;
            let Some(first) = self.shared.front() else {
                break;
            };
            if self.sent < first.at {
                break;
            }
            let large = sent.min(first.value.len() - self.shared_sent);
            self.shared_sent += large;
            sent -= large;
            if self.shared_sent == first.value.len() {
                self.shared.pop_front();
                self.shared_sent = 0;
            }
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        if self.pending == 0 {
            self.sent = 0;
            self.bytes.clear();
            if self.bytes.capacity() > BUFFER_KEEP {
                self.bytes = Vec::new();
            }
        } else if self.sent > BUFFER_KEEP && self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            for shared in &mut self.shared {
                shared.at -= self.sent;
            }
            self.sent = 0;
        }
    }

    /// Bytes of memory held, large values not counted.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Lcg;

    /// Takes a random number of bytes at a time.
    struct Slow<'a>(&'a mut Lcg, &'a mut Vec<u8>);
    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }
        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: usize = slices.iter().map(|s| s.len()).sum();
            let take = (1 + self.0.below(200_000) as usize).min(all);
            let mut left = take;
            for slice in slices {
                let n = left.min(slice.len());
                self.1.extend_from_slice(&slice[..n]);
                left -= n;
            }
            Ok(take)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn sends_all_in_order_however_little_is_taken() {
        let mut random = Lcg(7);
        let mut output = Output::default();
        let (mut expected, mut received) = (Vec::new(), Vec::new());
        for round in 0..3000u32 {
            let fill = vec![round as u8; random.below(3000) as usize];
            let mark = output.mark();
            match random.below(4) {
                0 => output.push_shared(fill.clone().into()),
                _ => output.push(&fill),
            }
            if random.below(5) == 0 {
                output.truncate(mark);
            } else if random.below(5) == 0 {
                assert!(output.take_from(mark) == fill);
            } else {
                expected.extend_from_slice(&fill);
            }
            if random.below(30) == 0 {
                let sent = output
                    .write_to(&mut Slow(&mut random, &mut received))
                    .unwrap();
                assert!(sent > 0 || output.is_empty());
            }
            assert_eq!(output.pending(), expected.len() - received.len());
        }
        while !output.is_empty() {
            output
                .write_to(&mut Slow(&mut random, &mut received))
                .unwrap();
        }
        assert!(expected == received);
    }
}
