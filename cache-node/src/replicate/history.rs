//! Which positions lie in a node's history: what lets a replica go on where it stopped, across changes of primary.

use crate::log::Position;

/// Changes of primary that are remembered; a replica further behind syncs in full.
const REMEMBERED: usize = 64;

/// The epochs of a history and the offset at which each began, ascending. Bytes below `starts[i + 1].offset` and with epoch `starts[i].epoch`
/// or later are the same in every node with this history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    starts: Vec<Position>,
}

impl History {
    /// A history of which only what follows `at` is known.
    pub fn from(at: Position) -> Self {
        Self { starts: vec![at] }
    }

    /// Another primary goes on from here.
    pub fn advance(&mut self, at: Position) {
        self.starts.push(at);
        if self.starts.len() > REMEMBERED {
            self.starts.remove(0);
        }
    }

    /// Whether a position is one that this history, which ends at `end`, went through.
    pub fn went_through(&self, p: Position, end: u64) -> bool {
        let Some(i) = self.starts.iter().position(|s| s.epoch == p.epoch) else {
            return false;
        };
        let until = self.starts.get(i + 1).map_or(end, |next| next.offset);
        p.offset <= until
    }

    /// The epoch that an offset was written in, or goes on in.
    pub fn epoch_at(&self, offset: u64) -> u64 {
        let started = self.starts.iter().rev().find(|s| s.offset <= offset);
        started.or(self.starts.first()).map_or(0, |s| s.epoch)
    }

    /// Where the epoch after `epoch` began.
    pub fn next_start(&self, epoch: u64) -> Option<Position> {
        self.starts.iter().copied().find(|s| s.epoch > epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, offset: u64) -> Position {
        Position { epoch, offset }
    }

    #[test]
    fn positions_of_other_branches_are_told_apart() {
        // Epoch 1 from 0, a new primary in epoch 5 at 100, another in epoch 9 at 250; now at 400.
        let mut history = History::from(at(1, 0));
        history.advance(at(5, 100));
        history.advance(at(9, 250));
        let table = [
            (at(1, 0), true),
            (at(1, 100), true),
            // The old primary wrote on after its replica had become primary.
            (at(1, 101), false),
            (at(5, 101), true),
            (at(5, 250), true),
            (at(5, 251), false),
            (at(9, 400), true),
            (at(9, 401), false),
            (at(7, 10), false),
            (at(10, 0), false),
            (at(0, 0), false),
        ];
        for (position, expected) in table {
            assert_eq!(
                history.went_through(position, 400),
                expected,
                "{position:?}"
            );
        }
        assert_eq!(history.next_start(1), Some(at(5, 100)));
        assert_eq!(history.next_start(5), Some(at(9, 250)));
        assert_eq!(history.next_start(9), None);
        assert_eq!([0, 99, 100, 400].map(|o| history.epoch_at(o)), [1, 1, 5, 9]);
        assert!(!History::default().went_through(at(0, 0), 0));
    }

    #[test]
    fn old_changes_are_forgotten() {
        let mut history = History::from(at(1, 0));
        for epoch in 2..=100 {
            history.advance(at(epoch, epoch * 10));
        }
        assert!(!history.went_through(at(1, 0), 5_000));
        assert!(history.went_through(at(90, 901), 5_000));
    }
}
