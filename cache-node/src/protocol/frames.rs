//! Reads whole commands ahead of their execution, so that what they need can be fetched from memory together.
//!
//! Only commands as clients send them: arrays of bulk strings, whole. Whatever else is next (an inline command, a part of one, an error) is
//! left to [`super::parse::Parser`], with which this agrees on everything it takes.

use super::parse::Args;

/// Arguments of a command that is read ahead.
const ARGS: usize = 64;
/// Digits of a length that is read ahead.
const DIGITS: usize = 9;

/// Commands read ahead. Kept by a thread, to be used again.
#[derive(Debug, Default)]
pub struct Frames {
    frames: Vec<Frame>,
    /// Start and end of each argument in the input.
    ranges: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    start: usize,
    end: usize,
    /// Its arguments in `ranges` end here; they begin where those before end.
    ranges_end: usize,
}

impl Frames {
    pub fn clear(&mut self) {
        self.frames.clear();
        self.ranges.clear();
    }

    /// Reads up to `max` commands from `at` on, with arguments of up to `bulk_max` bytes, and keeps them after those that were read before.
    /// Gives how many there are.
    pub fn read(&mut self, input: &[u8], at: usize, max: usize, bulk_max: usize) -> usize {
        let before = self.frames.len();
        let mut start = at;
        while self.frames.len() - before < max {
            let ranges = self.ranges.len();
            let Some(end) = command(input, start, bulk_max, &mut self.ranges) else {
                self.ranges.truncate(ranges);
                break;
            };
            self.frames.push(Frame {
                start,
                end,
                ranges_end: self.ranges.len(),
            });
            start = end;
        }
        self.frames.len() - before
    }

    /// How many commands are kept.
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    /// Where a command starts and ends.
    pub fn span(&self, i: usize) -> (usize, usize) {
        (self.frames[i].start, self.frames[i].end)
    }

    /// The arguments of a command, given the input that it was read from.
    pub fn args<'a>(&'a self, input: &'a [u8], i: usize) -> Args<'a> {
        let from = if i == 0 {
            0
        } else {
            self.frames[i - 1].ranges_end
        };
        Args::new(input, &self.ranges[from..self.frames[i].ranges_end])
    }
}

/// Reads one command. Gives its end.
fn command(
    input: &[u8],
    at: usize,
    bulk_max: usize,
    ranges: &mut Vec<(usize, usize)>,
) -> Option<usize> {
    let (count, mut at) = number(input, at, b'*')?;
    if count == 0 || count > ARGS {
        return None;
    }
    for _ in 0..count {
        let (length, start) = number(input, at, b'$')?;
        let end = start + length;
        at = end + 2;
        if length > bulk_max || at > input.len() {
            return None;
        }
        ranges.push((start, end));
    }
    Some(at)
}

/// Reads `<mark>digits\r\n`. Gives the number, and where the next byte is.
fn number(input: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    // After a number of a whole command come two bytes at least, so these six are there.
    let [m, first, second, third, ..] = *input.get(at..)?.first_chunk::<6>()?;
    let first = digit(first)?;
    if m != mark {
        return None;
    }
    // As the parser: two bytes end a line, the second of which is not looked at.
    if second == b'\r' {
        return Some((first, at + 4));
    }
    // No leading zeros, as the parser has it.
    if first == 0 {
        return None;
    }
    if third == b'\r' {
        return Some((first * 10 + digit(second)?, at + 5));
    }
    longer_number(input, at + 1)
}

/// As [`number`], of up to nine digits, from the first of them on.
fn longer_number(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let digits = &input[at..input.len().min(at + DIGITS + 1)];
    let length = digits.iter().position(|&b| b == b'\r')?;
    let mut value = 0;
    for &b in &digits[..length] {
        value = value * 10 + digit(b)?;
    }
    let next = at + length + 2;
    (next <= input.len()).then_some((value, next))
}

fn digit(b: u8) -> Option<usize> {
    let digit = b.wrapping_sub(b'0');
    (digit < 10).then_some(usize::from(digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BULK_MAX;
    use crate::protocol::{Parser, Progress};
    use crate::store::tests::Lcg;

    fn words(args: Args<'_>) -> Vec<Vec<u8>> {
        args.iter().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn whole_commands_are_read_and_nothing_else() {
        let table: [(&[u8], usize); 16] = [
            (b"*1\r\n$4\r\nPING\r\n", 1),
            (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n", 2),
            (b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPIN", 1),
            (b"*1\r\n$4\r\nPING\r", 0),
            (b"*1\r\n$4\r", 0),
            (b"*1\r\n", 0),
            (b"*1", 0),
            (b"", 0),
            (b"PING\r\n", 0),
            (b"*0\r\n", 0),
            (b"*-1\r\n", 0),
            (b"*01\r\n$4\r\nPING\r\n", 0),
            (b"*1\r\n$04\r\nPING\r\n", 0),
            (b"*1\r\n$-1\r\n", 0),
            (b"*1\r\n+4\r\nPING\r\n", 0),
            (b"*1\r\n$99999999999999999999\r\n", 0),
        ];
        let mut frames = Frames::default();
        for (input, count) in table {
            frames.clear();
            assert_eq!(
                frames.read(input, 0, 32, BULK_MAX),
                count,
                "{}",
                input.escape_ascii()
            );
        }
        assert_eq!(frames.read(b"*1\r\n$4\r\nPING\r\n", 0, 32, 3), 0);
        frames.clear();
        let three = b"*1\r\n$4\r\nPING\r\n".repeat(3);
        assert_eq!(frames.read(&three, 14, 1, BULK_MAX), 1);
        assert_eq!(frames.read(&three, 28, 9, BULK_MAX), 1);
        assert_eq!((frames.span(0), frames.span(1)), ((14, 28), (28, 42)));
        assert_eq!(words(frames.args(&three, 1)), [b"PING"]);
    }

    /// Whatever comes, it takes a prefix of what the parser takes, and of well-formed streams everything.
    #[test]
    fn agrees_with_the_parser() {
        let mut random = Lcg(11);
        let mut taken = 0;
        for round in 0..4000 {
            let mut input = Vec::new();
            for _ in 0..random.below(6) {
                let count = random.below(4) + 1;
                input.extend_from_slice(format!("*{count}\r\n").as_bytes());
                for _ in 0..count {
                    let length = random.below(12) as usize;
                    input.extend_from_slice(format!("${length}\r\n").as_bytes());
                    input.extend((0..length).map(|_| b"\r\n*$1ab"[random.below(7) as usize]));
                    input.extend_from_slice(b"\r\n");
                }
            }
            let whole = round % 2 == 0;
            if !whole && !input.is_empty() {
                for _ in 0..=random.below(3) {
                    let i = random.below(input.len() as u64) as usize;
                    input[i] = b"\r\n*$0123-"[random.below(9) as usize];
                }
                input.truncate(random.below(input.len() as u64 + 1) as usize);
            }
            let mut frames = Frames::default();
            let count = frames.read(&input, 0, 32, 10_000);
            let mut parser = Parser::default();
            parser.bulk_max = 10_000;
            let mut at = 0;
            for i in 0..count {
                assert_eq!(frames.span(i).0, at);
                let Ok(Progress::Command(length)) = parser.parse(&input[at..], true) else {
                    panic!("the parser finds no command: {}", input.escape_ascii());
                };
                assert_eq!(
                    words(frames.args(&input, i)),
                    words(parser.args(&input[at..]))
                );
                parser.next_frame();
                at += length;
                assert_eq!(frames.span(i).1, at);
            }
            assert!(!whole || at == input.len(), "{}", input.escape_ascii());
            taken += count;
        }
        assert!(taken > 4000);
    }
}
