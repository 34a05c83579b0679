//! A leaf of a tree: entries one after the other, and where each begins.

/// Bytes of a leaf's entries, and what finds them, beyond which it is split; an entry that is larger is alone in its leaf.
pub const LEAF_BYTES: usize = 4096;
/// What an allocation takes beside its bytes, about.
const ALLOCATION: usize = 16;
/// Leaves that grow take so much more at least.
const GROWTH: usize = 64;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct Leaf {
    data: Vec<u8>,
    /// Two bytes do: what goes beyond is one entry, which begins at 0.
    starts: Vec<u16>,
}

impl Leaf {
    fn of(entry: &[u8]) -> Self {
        Self {
            data: entry.to_vec(),
            starts: vec![0],
        }
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Where an entry begins, or the end of all.
    fn start(&self, i: usize) -> usize {
        self.starts
            .get(i)
            .map_or(self.data.len(), |&start| usize::from(start))
    }

    pub fn get(&self, i: usize) -> &[u8] {
        &self.data[self.start(i)..self.start(i + 1)]
    }

    pub fn size(&self) -> usize {
        self.data.len() + 2 * self.starts.len()
    }

    /// Bytes of memory that it holds.
    pub fn held(&self) -> usize {
        self.data.capacity() + 2 * self.starts.capacity() + 2 * ALLOCATION
    }

    /// The number of leading entries for which `before` is true. `guess`: about how many they are.
    pub fn partition_point(
        &self,
        guess: Option<usize>,
        mut before: impl FnMut(&[u8]) -> bool,
    ) -> usize {
        let (mut low, mut high) = match guess {
            Some(guess) if !self.is_empty() => self.around(guess, &mut before),
            _ => (0, self.len()),
        };
        while low < high {
            let middle = low.midpoint(high);
            match before(self.get(middle)) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Bounds of the partition point: away from a guess in steps that double.
    fn around(&self, guess: usize, before: &mut impl FnMut(&[u8]) -> bool) -> (usize, usize) {
        let at = guess.min(self.len() - 1);
        let mut step = 1;
        if before(self.get(at)) {
            let mut low = at + 1;
            loop {
                let next = low + step;
                if next >= self.len() {
                    return (low, self.len());
                }
                if !before(self.get(next)) {
                    return (low, next);
                }
                (low, step) = (next + 1, 2 * step);
            }
        }
        let mut high = at;
        loop {
            if step > high {
                return (0, high);
            }
            let next = high - step;
            if before(self.get(next)) {
                return (next + 1, high);
            }
            (high, step) = (next, 2 * step);
        }
    }

    /// Room for more, growing by an eighth: leaves are many, so doubling would waste much.
    fn reserve(&mut self, bytes: usize, entries: usize) {
        let wanted = self.data.len() + bytes;
        if wanted > self.data.capacity() {
            let growth = (self.data.len() / 8).max(GROWTH);
            self.data.reserve_exact(bytes.max(growth));
        }
        let wanted = self.starts.len() + entries;
        if wanted > self.starts.capacity() {
            let growth = (self.starts.len() / 8).max(GROWTH / 16);
            self.starts.reserve_exact(entries.max(growth));
        }
    }

    /// Adds an entry before the one at `i`. Gives new right neighbours in order, where not all fits into one leaf.
    pub fn insert(&mut self, i: usize, entry: &[u8]) -> Vec<Self> {
        if entry.len() > LEAF_BYTES || self.data.len() > LEAF_BYTES {
            return self.set_apart(i, i, entry);
        }
        self.reserve(entry.len(), 1);
        let (start, end) = (self.start(i), self.data.len());
        self.data.resize(end + entry.len(), 0);
        self.data.copy_within(start..end, start + entry.len());
        self.data[start..start + entry.len()].copy_from_slice(entry);
        self.starts.insert(i, start as u16);
        self.shift(i + 1, entry.len() as isize);
        self.fit(i)
    }

    /// As [`Leaf::insert`], in the place of the one at `i`.
    pub fn replace(&mut self, i: usize, entry: &[u8]) -> Vec<Self> {
        let (start, end) = (self.start(i), self.start(i + 1));
        if entry.len() == end - start {
            self.data[start..end].copy_from_slice(entry);
            return Vec::new();
        }
        if self.len() == 1 {
            *self = Self::of(entry);
            return Vec::new();
        }
        if entry.len() > LEAF_BYTES {
            return self.set_apart(i, i + 1, entry);
        }
        self.reserve(entry.len().saturating_sub(end - start), 0);
        self.data.splice(start..end, entry.iter().copied());
        self.shift(i + 1, entry.len() as isize - (end - start) as isize);
        self.release();
        self.fit(i)
    }

    /// Puts an entry into a leaf of its own, in the place of those from `from` to before `to`.
    fn set_apart(&mut self, from: usize, to: usize, entry: &[u8]) -> Vec<Self> {
        let mut right = Vec::new();
        if to < self.len() {
            right.push(self.split(to));
        }
        if from < self.len() {
            self.remove(from, self.len());
        }
        match from {
            0 => *self = Self::of(entry),
            _ => right.insert(0, Self::of(entry)),
        }
        right
    }

    /// Moves all starts from `i` on.
    fn shift(&mut self, i: usize, by: isize) {
        for start in &mut self.starts[i..] {
            *start = start.wrapping_add_signed(by as i16);
        }
    }

    pub fn remove(&mut self, from: usize, to: usize) {
        let (start, end) = (self.start(from), self.start(to));
        self.data.drain(start..end);
        self.starts.drain(from..to);
        self.shift(from, -((end - start) as isize));
        self.release();
    }

    /// Gives memory back once much of it is unused.
    fn release(&mut self) {
        if self.data.capacity() > 64 && self.data.len() < self.data.capacity() / 2 {
            self.data.shrink_to(self.data.len() + self.data.len() / 8);
        }
        if self.starts.capacity() > 16 && self.starts.len() < self.starts.capacity() / 2 {
            self.starts
                .shrink_to(self.starts.len() + self.starts.len() / 8);
        }
    }

    fn split(&mut self, at: usize) -> Self {
        if at == 0 {
            return std::mem::take(self);
        }
        let start = self.start(at);
        let starts = self.starts[at..].iter().map(|&s| s - start as u16);
        let right = Self {
            data: self.data[start..].to_vec(),
            starts: starts.collect(),
        };
        self.data.truncate(start);
        self.starts.truncate(at);
        self.release();
        right
    }

    /// Splits until all fit, after a change at `i`.
    fn fit(&mut self, i: usize) -> Vec<Self> {
        if self.size() <= LEAF_BYTES || self.len() == 1 {
            return Vec::new();
        }
        let in_order = i + 1 == self.len();
        let mut new = self.split(self.split_point(i));
        if in_order {
            // Nothing more is expected here.
            self.data.shrink_to_fit();
            self.starts.shrink_to_fit();
        }
        let mut right = self.fit(self.len() / 2);
        let more = new.fit(new.len() / 2);
        right.push(new);
        right.extend(more);
        right
    }

    /// Where to split after a change at `i`: behind or before it when entries come in order, else in the middle.
    fn split_point(&self, i: usize) -> usize {
        let last = self.len() - 1;
        if i == last {
            return last;
        }
        if i == 0 {
            return 1;
        }
        let half = self.size() / 2;
        let small = (1..self.len()).take_while(|&i| self.start(i) + 2 * i < half);
        small.count().clamp(1, last)
    }

    pub fn append(&mut self, right: &Self) {
        self.reserve(right.data.len(), right.starts.len());
        let offset = self.data.len() as u16;
        self.data.extend_from_slice(&right.data);
        self.starts.extend(right.starts.iter().map(|s| s + offset));
    }
}
