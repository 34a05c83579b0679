//! Arguments that outlive the input they came in.

use super::Args;

/// A command's arguments, in one piece of memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    bytes: Vec<u8>,
    ranges: Vec<(usize, usize)>,
}

impl Words {
    pub fn push(&mut self, word: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(word);
        self.ranges.push((start, self.bytes.len()));
    }

    pub fn args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.ranges)
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity() + self.ranges.capacity() * size_of::<(usize, usize)>()
    }
}

impl<'a> FromIterator<&'a [u8]> for Words {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(iter: I) -> Self {
        let mut words = Self::default();
        iter.into_iter().for_each(|word| words.push(word));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_they_were() {
        let words: Words = [&b"SET"[..], b"", b"a\0b"].into_iter().collect();
        let args = words.args();
        assert_eq!(args.len(), 3);
        assert_eq!(
            (args.at(0), args.at(1), args.at(2)),
            (&b"SET"[..], &b""[..], &b"a\0b"[..])
        );
        assert_eq!(args.from(1).len(), 2);
        assert!(words.bytes() >= 6);
    }
}
