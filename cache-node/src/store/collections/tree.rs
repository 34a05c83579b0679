//! A sequence of byte strings as a counted B+tree: positions, ranks and ordered searches in O(log n), its nodes shared by copy on write.
//!
//! A clone costs one reference count. A node that a clone holds too is copied before its first change, so a copy that is being written to
//! a file or a replica stays as it was while its owner goes on. Nodes are bounded ([`LEAF_BYTES`], [`FANOUT`]), so every change is.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::budget::Budget;
use super::leaf::{LEAF_BYTES, Leaf};
use super::node::{Body, Change, Child, Node, change, child_below, child_of, lead, remove};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Arc<Node>,
    len: usize,
    /// Of all nodes.
    bytes: usize,
}

impl Tree {
    /// More than a change takes while it is made, beside the bytes of the entry: new nodes on the way down.
    pub const CHANGE_BYTES: usize = 4 * LEAF_BYTES;

    pub fn new(budget: &Arc<Budget>) -> Self {
        let root = Arc::new(Node::new(Body::Leaf(Leaf::default()), budget.clone()));
        Self {
            bytes: root.bytes(),
            root,
            len: 0,
        }
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.root.charge.budget
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of its nodes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The leaf of the entry at `index`, and its index there.
    fn leaf(&self, index: usize) -> (&Leaf, usize) {
        let (mut node, mut within) = (&self.root, index);
        loop {
            match &node.body {
                Body::Leaf(leaf) => return (leaf, within),
                Body::Branch(children) => {
                    let (i, next) = child_of(children, within, false);
                    (node, within) = (&children[i].node, next);
                }
            }
        }
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len {
            return None;
        }
        let (leaf, i) = self.leaf(index);
        Some(leaf.get(i))
    }

    /// The number of leading entries for which `before` is true; it must be true for none behind one for which it is false.
    pub fn partition_point(&self, mut before: impl FnMut(&[u8]) -> bool) -> usize {
        let (mut node, mut passed) = (&self.root, 0);
        loop {
            match &node.body {
                Body::Leaf(leaf) => return passed + leaf.partition_point(None, before),
                Body::Branch(children) => {
                    let i = children
                        .partition_point(|c| c.node.first().is_some_and(&mut before))
                        .saturating_sub(1);
                    passed += children[..i].iter().map(|c| c.len).sum::<usize>();
                    node = &children[i].node;
                }
            }
        }
    }

    /// The index of the first entry that is not below a key. `key_lead`: the key's first eight bytes, as [`lead`] has them; `below`: whether an
    /// entry is below the key.
    pub fn search(&self, key_lead: u64, mut below: impl FnMut(&[u8]) -> bool) -> usize {
        let (mut node, mut passed) = (&self.root, 0);
        loop {
            match &node.body {
                Body::Leaf(leaf) => return passed + leaf.partition_point(None, below),
                Body::Branch(children) => {
                    let i = child_below(children, key_lead, &mut below);
                    passed += children[..i].iter().map(|c| c.len).sum::<usize>();
                    node = &children[i].node;
                }
            }
        }
    }

    /// The index of the first entry that is not below `key`, in the order of bytes.
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        self.search(lead(key), |entry| entry < key)
    }

    /// The first entry that is not below `key`, in a tree whose entries begin with evenly spread numbers, if it is in the leaf where the key
    /// belongs; and its index.
    pub fn find_even(&self, key: &[u8]) -> (usize, Option<&[u8]>) {
        self.look_up::<true>(key)
    }

    /// The entry that begins with `key`, as [`Tree::find_even`]; None if it is in another leaf, too.
    pub fn get_even(&self, key: &[u8]) -> Option<&[u8]> {
        self.look_up::<false>(key).1
    }

    /// `RANKS`: whether the index is wanted.
    fn look_up<const RANKS: bool>(&self, key: &[u8]) -> (usize, Option<&[u8]>) {
        let key_lead = lead(key);
        let mut below = |entry: &[u8]| match lead(entry).cmp(&key_lead) {
            Ordering::Equal => entry < key,
            order => order == Ordering::Less,
        };
        let (mut node, mut passed) = (&self.root, 0);
        let (mut low, mut high) = (0, u64::MAX);
        loop {
            match &node.body {
                Body::Leaf(leaf) => {
                    // The leading half of the numbers does.
                    let part = (key_lead.saturating_sub(low) >> 32) * leaf.len() as u64;
                    let guess = part / ((high.saturating_sub(low) >> 32) + 1);
                    let i = leaf.partition_point(Some(guess as usize), below);
                    return (passed + i, (i < leaf.len()).then(|| leaf.get(i)));
                }
                Body::Branch(children) => {
                    let i = child_below(children, key_lead, &mut below);
                    low = children[i].low;
                    high = children.get(i + 1).map_or(high, |next| next.low);
                    if RANKS {
                        passed += children[..i].iter().map(|c| c.len).sum::<usize>();
                    }
                    node = &children[i].node;
                }
            }
        }
    }

    pub fn insert(&mut self, index: usize, entry: &[u8]) {
        debug_assert!(index <= self.len);
        self.change(index, Change::Insert(entry));
        self.len += 1;
    }

    pub fn push(&mut self, entry: &[u8]) {
        self.insert(self.len, entry);
    }

    pub fn replace(&mut self, index: usize, entry: &[u8]) {
        debug_assert!(index < self.len);
        self.change(index, Change::Replace(entry));
    }

    fn change(&mut self, index: usize, what: Change<'_>) {
        let changed = change(&mut self.root, index, what);
        self.bytes = self.bytes.wrapping_add_signed(changed.bytes);
        if !changed.right.is_empty() {
            let mut children = vec![Child::new(self.root.clone())];
            children.extend(changed.right.into_iter().map(Child::new));
            let budget = self.budget().clone();
            self.root = Arc::new(Node::new(Body::Branch(children), budget));
            self.bytes = self.root.bytes();
        }
    }

    pub fn remove(&mut self, index: usize) {
        self.remove_range(index, index + 1);
    }

    /// Removes the entries from `from` to before `to`.
    pub fn remove_range(&mut self, from: usize, to: usize) {
        let to = to.min(self.len);
        if from >= to {
            return;
        }
        if to - from == self.len {
            *self = Self::new(&self.budget().clone());
            return;
        }
        remove(&mut self.root, from, to);
        self.len -= to - from;
        while let Body::Branch(children) = &self.root.body
            && let [only] = &children[..]
        {
            self.root = only.node.clone();
        }
        self.bytes = self.root.bytes();
    }

    /// The entries from `index` on, in order.
    pub fn iter_from(&self, index: usize) -> Iter<'_> {
        Iter {
            tree: self,
            leaf: None,
            index,
        }
    }

    /// The entries from `index` back to the first.
    pub fn iter_back(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let mut held: Option<(&Leaf, usize)> = None;
        let mut left = index.saturating_add(1).min(self.len);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (leaf, i) = match held {
                Some((leaf, i)) if i > 0 => (leaf, i - 1),
                _ => self.leaf(left),
            };
            held = Some((leaf, i));
            Some(leaf.get(i))
        })
    }
}

/// Entries in order.
#[derive(Debug, Clone)]
pub struct Iter<'t> {
    tree: &'t Tree,
    /// The leaf of `index`, and its place there.
    leaf: Option<(&'t Leaf, usize)>,
    index: usize,
}

impl<'t> Iterator for Iter<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        if self.index >= self.tree.len {
            return None;
        }
        let (leaf, i) = match self.leaf {
            Some((leaf, i)) if i < leaf.len() => (leaf, i),
            _ => self.tree.leaf(self.index),
        };
        self.leaf = Some((leaf, i + 1));
        self.index += 1;
        Some(leaf.get(i))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.tree.len - self.index.min(self.tree.len);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Lcg;
    use super::super::node::FANOUT;
    use super::*;

    /// Every node is within its bounds, and the counts on the way down are true. Gives the height.
    fn check(node: &Node) -> usize {
        match &node.body {
            Body::Leaf(leaf) => {
                assert!(leaf.size() <= LEAF_BYTES || leaf.len() == 1);
                1
            }
            Body::Branch(children) => {
                assert!(children.len() <= FANOUT && !children.is_empty());
                let heights: Vec<usize> = children.iter().map(|c| check(&c.node)).collect();
                assert!(heights.windows(2).all(|w| w[0] == w[1]));
                for child in children {
                    assert!(child.len > 0);
                    assert_eq!(
                        (child.low, child.len, child.bytes),
                        (child.node.low(), child.node.len(), child.node.bytes())
                    );
                }
                heights[0] + 1
            }
        }
    }

    fn entry(random: &mut Lcg) -> Vec<u8> {
        let length = match random.below(200) {
            0 => 5_000,
            1..10 => random.below(600),
            _ => random.below(24),
        };
        vec![random.below(256) as u8; length as usize]
    }

    #[test]
    fn it_is_the_vector_of_its_entries() {
        for seed in 0..6 {
            let mut random = Lcg(seed);
            let budget = Arc::new(Budget::new(0));
            let (mut tree, mut model) = (Tree::new(&budget), Vec::<Vec<u8>>::new());
            let mut kept: Vec<(Tree, Vec<Vec<u8>>)> = Vec::new();
            for step in 0..6_000 {
                let at = random.below(model.len() as u64 + 1) as usize;
                match random.below(if step % 2_000 < 1_200 { 14 } else { 30 }) {
                    0..3 => {
                        let entry = entry(&mut random);
                        tree.push(&entry);
                        model.push(entry);
                    }
                    3..5 => {
                        let entry = entry(&mut random);
                        tree.insert(0, &entry);
                        model.insert(0, entry);
                    }
                    5..10 => {
                        let entry = entry(&mut random);
                        tree.insert(at, &entry);
                        model.insert(at, entry);
                    }
                    10..12 if at < model.len() => {
                        let entry = entry(&mut random);
                        tree.replace(at, &entry);
                        model[at] = entry;
                    }
                    12 if random.below(60) == 0 => {
                        let to = (at + random.below(900) as usize).min(model.len());
                        tree.remove_range(at, to);
                        model.drain(at..to);
                    }
                    13 if random.below(100) == 0 => kept.push((tree.clone(), model.clone())),
                    _ if at < model.len() => {
                        tree.remove(at);
                        model.remove(at);
                    }
                    _ => {}
                }
                if step % 100 == 0 {
                    check(&tree.root);
                }
            }
            check(&tree.root);
            assert_eq!(tree.len(), model.len());
            assert!(tree.iter_from(0).eq(model.iter().map(Vec::as_slice)));
            let from = model.len() / 3;
            assert!(
                tree.iter_from(from)
                    .eq(model[from..].iter().map(Vec::as_slice))
            );
            let back = model[..=from.min(model.len() - 1)].iter().rev();
            assert!(tree.iter_back(from).eq(back.map(Vec::as_slice)));
            for i in (0..model.len()).step_by(7) {
                assert_eq!(tree.get(i), Some(&model[i][..]));
            }
            assert_eq!(tree.get(model.len()), None);
            // What was kept is as it was, and with the last of it its memory goes.
            assert!(!kept.is_empty());
            for (tree, model) in kept {
                assert!(tree.iter_from(0).eq(model.iter().map(Vec::as_slice)));
            }
            assert_eq!(budget.used(), tree.bytes() as u64);
            drop(tree);
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn ordered_entries_are_found_by_halving() {
        let budget = Arc::new(Budget::new(0));
        let mut random = Lcg(3);
        let (mut tree, mut model) = (Tree::new(&budget), std::collections::BTreeSet::new());
        for _ in 0..20_000 {
            let key = random.below(30_000).to_be_bytes();
            let at = tree.lower_bound(&key);
            let found = tree.get(at) == Some(&key[..]);
            assert_eq!(found, model.contains(&key));
            match (found, random.below(3)) {
                (true, 0) => {
                    tree.remove(at);
                    model.remove(&key);
                }
                (false, _) => {
                    tree.insert(at, &key);
                    model.insert(key);
                }
                _ => {}
            }
        }
        check(&tree.root);
        assert!(tree.iter_from(0).eq(model.iter().map(|k| &k[..])));
        // In random order leaves are two thirds full or better, with all that is around.
        assert!(
            tree.bytes() < tree.len() * 20,
            "{} for {}",
            tree.bytes(),
            tree.len()
        );
        for (rank, key) in model.iter().enumerate().step_by(97) {
            assert_eq!(tree.lower_bound(key), rank);
        }
    }
}
