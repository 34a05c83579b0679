//! Reads commands from a connection's input, as far as they have come, without copying their arguments.

use std::ops::Index;

use thiserror::Error;

use super::inline;
use super::number::parse_i64;
use crate::limits::{
    ARGS_MAX, BUFFER_KEEP, BULK_MAX, INLINE_MAX, UNAUTHENTICATED_ARGS_MAX, UNAUTHENTICATED_BULK_MAX,
};

/// What is wrong with the bytes. The connection cannot go on. The texts are Redis's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProtocolError {
    #[error("Protocol error: too big mbulk count string")]
    CountTooLong,
    #[error("Protocol error: invalid multibulk length")]
    InvalidCount,
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedCount,
    #[error("Protocol error: too big bulk count string")]
    LengthTooLong,
    #[error("Protocol error: expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    #[error("Protocol error: invalid bulk length")]
    InvalidLength,
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedLength,
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// A reply is one line: Redis shows line ends as blanks.
fn printable(b: u8) -> char {
    match b {
        b'\r' | b'\n' => ' ',
        b => char::from(b),
    }
}

/// How far the parser has come with the frame at the start of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// At least so many bytes in all are needed to go on.
    Incomplete(usize),
    /// A command, in this many bytes: [`Parser::args`] has its arguments until [`Parser::next_frame`].
    Command(usize),
    /// So many bytes that mean nothing: an empty line or an empty array.
    Nothing(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// So many arguments to come, the next from this offset on.
    Arguments {
        left: usize,
        at: usize,
    },
    /// As `Arguments`, with the length of the next one known.
    Body {
        left: usize,
        at: usize,
        length: usize,
    },
    /// A command of so many bytes.
    Complete(usize),
}

/// Reads one frame after the other. The input it is given always begins with the frame it is at, and only grows until
/// [`Parser::next_frame`].
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// Start and end of each argument: in the input, or in `words` for an inline command.
    ranges: Vec<(usize, usize)>,
    words: Vec<u8>,
    inline: bool,
    /// The largest argument, a setting.
    pub bulk_max: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            state: State::Start,
            ranges: Vec::new(),
            words: Vec::new(),
            inline: false,
            bulk_max: BULK_MAX,
        }
    }
}

/// The arguments of a command; the first is its name.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [(usize, usize)],
}

impl<'a> Args<'a> {
    pub(super) fn new(bytes: &'a [u8], ranges: &'a [(usize, usize)]) -> Self {
        Self { bytes, ranges }
    }

    pub fn len(self) -> usize {
        self.ranges.len()
    }

    pub fn is_empty(self) -> bool {
        self.ranges.is_empty()
    }

    pub fn get(self, i: usize) -> Option<&'a [u8]> {
        self.ranges.get(i).map(|r| &self.bytes[r.0..r.1])
    }

    /// The argument at an index below `len`.
    pub fn at(self, i: usize) -> &'a [u8] {
        let range = self.ranges[i];
        &self.bytes[range.0..range.1]
    }

    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone {
        let bytes = self.bytes;
        self.ranges.iter().map(move |r| &bytes[r.0..r.1])
    }

    /// The arguments from `i` on.
    pub fn from(self, i: usize) -> Self {
        Self {
            bytes: self.bytes,
            ranges: self.ranges.get(i..).unwrap_or_default(),
        }
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];
    fn index(&self, i: usize) -> &[u8] {
        self.at(i)
    }
}

impl Parser {
    /// Whether it is at the start of a frame, of which it has seen nothing.
    pub fn is_at_start(&self) -> bool {
        self.state == State::Start
    }

    /// Goes on with the frame at the start of `input`.
    pub fn parse(&mut self, input: &[u8], authenticated: bool) -> Result<Progress, ProtocolError> {
        loop {
            match self.state {
                State::Complete(length) => return Ok(Progress::Command(length)),
                State::Start => match input.first() {
                    None => return Ok(Progress::Incomplete(1)),
                    Some(b'*') => {
                        if let Some(progress) = self.count(input, authenticated)? {
                            return Ok(progress);
                        }
                    }
                    Some(_) => return self.inline(input),
                },
                State::Arguments { left: 0, at } => self.state = State::Complete(at),
                State::Arguments { left, at } => {
                    let Some((line, next)) = line(input, at) else {
                        return if input.len() - at > INLINE_MAX {
                            Err(ProtocolError::LengthTooLong)
                        } else {
                            Ok(Progress::Incomplete(input.len() + 1))
                        };
                    };
                    let length = self.length(line, authenticated)?;
                    self.state = State::Body {
                        left,
                        at: next,
                        length,
                    };
                }
                State::Body { left, at, length } => {
                    // Redis does not look at the two bytes after an argument either.
                    let end = at + length + 2;
                    if input.len() < end {
                        return Ok(Progress::Incomplete(end));
                    }
                    self.ranges.push((at, at + length));
                    self.state = State::Arguments {
                        left: left - 1,
                        at: end,
                    };
                }
            }
        }
    }

    /// Reads `*count`.
    fn count(
        &mut self,
        input: &[u8],
        authenticated: bool,
    ) -> Result<Option<Progress>, ProtocolError> {
        let Some((line, next)) = line(input, 0) else {
            return if input.len() > INLINE_MAX {
                Err(ProtocolError::CountTooLong)
            } else {
                Ok(Some(Progress::Incomplete(input.len() + 1)))
            };
        };
        let count = parse_i64(&line[1..]).ok_or(ProtocolError::InvalidCount)?;
        if count > ARGS_MAX as i64 {
            return Err(ProtocolError::InvalidCount);
        }
        if !authenticated && count > UNAUTHENTICATED_ARGS_MAX as i64 {
            return Err(ProtocolError::UnauthenticatedCount);
        }
        if count <= 0 {
            return Ok(Some(Progress::Nothing(next)));
        }
        self.inline = false;
        self.state = State::Arguments {
            left: count as usize,
            at: next,
        };
        Ok(None)
    }

    /// Reads `$length`.
    fn length(&self, line: &[u8], authenticated: bool) -> Result<usize, ProtocolError> {
        match line.first() {
            Some(b'$') => {}
            other => return Err(ProtocolError::ExpectedBulk(other.copied().unwrap_or(b'\r'))),
        }
        let length = parse_i64(&line[1..])
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n <= self.bulk_max)
            .ok_or(ProtocolError::InvalidLength)?;
        if !authenticated && length > UNAUTHENTICATED_BULK_MAX {
            return Err(ProtocolError::UnauthenticatedLength);
        }
        Ok(length)
    }

    fn inline(&mut self, input: &[u8]) -> Result<Progress, ProtocolError> {
        let searched = &input[..input.len().min(INLINE_MAX + 1)];
        let Some(end) = searched.iter().position(|&b| b == b'\n') else {
            return if input.len() > INLINE_MAX {
                Err(ProtocolError::InlineTooLong)
            } else {
                Ok(Progress::Incomplete(input.len() + 1))
            };
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        self.words.clear();
        self.ranges.clear();
        inline::split(line, &mut self.words, &mut self.ranges)
            .ok_or(ProtocolError::UnbalancedQuotes)?;
        if self.ranges.is_empty() {
            return Ok(Progress::Nothing(end + 1));
        }
        self.inline = true;
        self.state = State::Complete(end + 1);
        Ok(Progress::Command(end + 1))
    }

    /// The arguments of the command that [`Parser::parse`] found.
    pub fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        Args {
            bytes: if self.inline { &self.words } else { input },
            ranges: &self.ranges,
        }
    }

    /// The frame is done: the input will begin with the one after it.
    pub fn next_frame(&mut self) {
        self.state = State::Start;
        self.ranges.clear();
        if self.ranges.capacity() > BUFFER_KEEP / size_of::<(usize, usize)>() {
            self.ranges = Vec::new();
        }
        if self.words.capacity() > BUFFER_KEEP {
            self.words = Vec::new();
        }
    }
}

/// The line from `at` on, without its end, and where the next begins. A line longer than a limit is not looked for to its end.
fn line(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let searched = input.get(at..)?;
    let searched = &searched[..searched.len().min(INLINE_MAX + 1)];
    let length = searched.iter().position(|&b| b == b'\r')?;
    let next = at + length + 2;
    (input.len() >= next).then(|| (&searched[..length], next))
}

#[cfg(test)]
mod tests;
