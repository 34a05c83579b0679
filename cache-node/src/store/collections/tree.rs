//! A sequence of byte strings as a counted B+tree: positions, ranks and ordered searches in O(log n), its nodes shared by copy on write.
//!
//! A clone costs one reference count. A node that a clone holds too is copied before its first change, so a copy that is being written to
//! a file or a replica stays as it was while its owner goes on. Nodes are bounded ([`LEAF_BYTES`], [`FANOUT`]), so every change is.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::budget::Budget;
use super::leaf::{LEAF_BYTES, Leaf};

/// Children of a branch at most.
const FANOUT: usize = 48;
/// What an allocation and its reference counts take beside its bytes, about.
const ALLOCATION: usize = 16;

/// Memory that is counted for as long as this lives.
#[derive(Debug)]
struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    fn set(&mut self, bytes: usize) {
        match bytes.cmp(&self.bytes) {
            Ordering::Greater => self.budget.take_anyway(bytes - self.bytes),
            Ordering::Less => self.budget.give(self.bytes - bytes),
            Ordering::Equal => {}
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        #[cfg(test)]
        super::super::tests::work(1);
        self.budget.give(self.bytes);
    }
}

/// What is below a branch, as far as it is to be known without going there.
#[derive(Debug, Clone)]
struct Child {
    node: Arc<Node>,
    /// The [`lead`] of its first entry.
    low: u64,
    /// Entries below.
    len: usize,
    /// Bytes of it and all below.
    bytes: usize,
}

impl Child {
    fn new(node: Arc<Node>) -> Self {
        let (low, len, bytes) = (node.low(), node.len(), node.bytes());
        Self {
            node,
            low,
            len,
            bytes,
        }
    }

    fn refresh(&mut self) {
        (self.low, self.len, self.bytes) = (self.node.low(), self.node.len(), self.node.bytes());
    }
}

/// The first eight bytes, zeroes behind a shorter one: where those of two entries differ, they are in the same order.
fn lead(entry: &[u8]) -> u64 {
    match entry.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..entry.len()].copy_from_slice(entry);
            u64::from_be_bytes(bytes)
        }
    }
}

#[derive(Debug, Clone)]
enum Body {
    Leaf(Leaf),
    Branch(Vec<Child>),
}

#[derive(Debug)]
struct Node {
    body: Body,
    charge: Charge,
}

impl Clone for Node {
    /// A copy that is about to be changed. Its memory is counted though there may be no room: its owner asked for some before.
    fn clone(&self) -> Self {
        Self::new(self.body.clone(), self.charge.budget.clone())
    }
}

impl Node {
    fn new(body: Body, budget: Arc<Budget>) -> Self {
        let mut node = Self {
            body,
            charge: Charge::new(budget),
        };
        node.settle();
        node
    }

    fn len(&self) -> usize {
        match &self.body {
            Body::Leaf(leaf) => leaf.len(),
            Body::Branch(children) => children.iter().map(|c| c.len).sum(),
        }
    }

    fn bytes(&self) -> usize {
        match &self.body {
            Body::Leaf(_) => self.charge.bytes,
            Body::Branch(children) => {
                self.charge.bytes + children.iter().map(|c| c.bytes).sum::<usize>()
            }
        }
    }

    /// Counts what it holds by itself.
    fn settle(&mut self) {
        let held = match &self.body {
            Body::Leaf(leaf) => leaf.held(),
            Body::Branch(children) => children.capacity() * size_of::<Child>() + ALLOCATION,
        };
        self.charge.set(held + size_of::<Self>() + ALLOCATION);
    }

    fn first(&self) -> Option<&[u8]> {
        let mut node = self;
        loop {
            match &node.body {
                Body::Leaf(leaf) => return (!leaf.is_empty()).then(|| leaf.get(0)),
                Body::Branch(children) => node = &children.first()?.node,
            }
        }
    }

    /// The [`lead`] of the first entry.
    fn low(&self) -> u64 {
        match &self.body {
            Body::Leaf(leaf) if leaf.is_empty() => 0,
            Body::Leaf(leaf) => lead(leaf.get(0)),
            Body::Branch(children) => children.first().map_or(0, |c| c.low),
        }
    }

    fn is_sparse(&self) -> bool {
        match &self.body {
            Body::Leaf(leaf) => leaf.size() < LEAF_BYTES / 4,
            Body::Branch(children) => children.len() < FANOUT / 4,
        }
    }

    /// Whether both fit into one node with some room.
    fn fits_with(&self, right: &Self) -> bool {
        match (&self.body, &right.body) {
            (Body::Leaf(l), Body::Leaf(r)) => l.size() + r.size() <= LEAF_BYTES * 3 / 4,
            (Body::Branch(l), Body::Branch(r)) => l.len() + r.len() <= FANOUT * 3 / 4,
            _ => false,
        }
    }
}

/// What is done to one entry.
#[derive(Clone, Copy)]
enum Change<'e> {
    Insert(&'e [u8]),
    Replace(&'e [u8]),
}

/// What a change has done to a node.
struct Changed {
    /// Bytes that it and all below hold more.
    bytes: isize,
    /// Its new right neighbours, when it was split.
    right: Vec<Arc<Node>>,
}

/// Changes the entry at `index` of the tree below `node`.
fn change(node: &mut Arc<Node>, index: usize, what: Change<'_>) -> Changed {
    // Of the node that is known above: a copy of it may hold less.
    let before = node.charge.bytes;
    let node = Arc::make_mut(node);
    let mut bytes = 0;
    let right: Vec<Body> = match &mut node.body {
        Body::Leaf(leaf) => {
            let right = match what {
                Change::Insert(entry) => leaf.insert(index, entry),
                Change::Replace(entry) => leaf.replace(index, entry),
            };
            right.into_iter().map(Body::Leaf).collect()
        }
        Body::Branch(children) => {
            let parts;
            let i;
            (i, parts, bytes) = change_child(children, index, what);
            split_branch(children, i, parts, &mut bytes)
        }
    };
    node.settle();
    let budget = &node.charge.budget;
    let new = |body| Arc::new(Node::new(body, budget.clone()));
    Changed {
        bytes: bytes + node.charge.bytes as isize - before as isize,
        right: right.into_iter().map(new).collect(),
    }
}

/// Changes an entry below one of the children. Gives its index, how many new ones came behind it, and the bytes that all of them hold more.
fn change_child(
    children: &mut Vec<Child>,
    index: usize,
    what: Change<'_>,
) -> (usize, usize, isize) {
    let inserts = matches!(what, Change::Insert(_));
    let (i, within) = child_of(children, index, inserts);
    let child = &mut children[i];
    let changed = change(&mut child.node, within, what);
    if changed.right.is_empty() {
        child.len += usize::from(inserts);
        child.bytes = child.bytes.wrapping_add_signed(changed.bytes);
        if within == 0 {
            child.low = child.node.low();
        }
        return (i, 0, changed.bytes);
    }
    let mut bytes = -(child.bytes as isize);
    child.refresh();
    bytes += child.bytes as isize;
    let parts = changed.right.len();
    for (offset, right) in changed.right.into_iter().enumerate() {
        if children.len() == children.capacity() {
            children.reserve_exact(children.len() / 8 + 1);
        }
        let new = Child::new(right);
        bytes += new.bytes as isize;
        children.insert(i + 1 + offset, new);
    }
    (i, parts, bytes)
}

/// Splits a branch that has too many children, after `parts` came behind the one at `i`: where they come in order at the end, else in the middle.
fn split_branch(children: &mut Vec<Child>, i: usize, parts: usize, bytes: &mut isize) -> Vec<Body> {
    if children.len() <= FANOUT {
        return Vec::new();
    }
    let at = match i {
        i if parts == 1 && i + 2 == children.len() => children.len() - 1,
        0 if parts == 1 => 1,
        _ => children.len() / 2,
    };
    let right = children.split_off(at);
    children.shrink_to_fit();
    *bytes -= right.iter().map(|c| c.bytes as isize).sum::<isize>();
    vec![Body::Branch(right)]
}

/// The last child that begins below a key, or the first of all.
fn child_below(children: &[Child], key_lead: u64, below: &mut impl FnMut(&[u8]) -> bool) -> usize {
    let begins_below = |child: &Child| match child.low.cmp(&key_lead) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => child.node.first().is_some_and(&mut *below),
    };
    children.partition_point(begins_below).saturating_sub(1)
}

/// The child with the entry at `index`, and its index there. `after`: an index behind a child's last entry is the child's too.
fn child_of(children: &[Child], index: usize, after: bool) -> (usize, usize) {
    let mut within = index;
    for (i, child) in children.iter().enumerate() {
        if within < child.len || (after && within == child.len) {
            return (i, within);
        }
        within -= child.len;
    }
    unreachable!("index {index} is beyond the tree")
}

/// Removes the entries from `from` to before `to`, of which there is at least one.
fn remove(node: &mut Arc<Node>, from: usize, to: usize) {
    let node = Arc::make_mut(node);
    match &mut node.body {
        Body::Leaf(leaf) => leaf.remove(from, to),
        Body::Branch(children) => {
            let mut start = 0;
            let mut touched = usize::MAX;
            let mut whole = Vec::new();
            for (i, child) in children.iter_mut().enumerate() {
                let end = start + child.len;
                let (a, b) = (from.max(start), to.min(end));
                if a < b {
                    touched = touched.min(i);
                    if b - a == child.len {
                        whole.push(i);
                    } else {
                        remove(&mut child.node, a - start, b - start);
                        child.refresh();
                    }
                }
                start = end;
                if start >= to {
                    break;
                }
            }
            if let (Some(&first), Some(&last)) = (whole.first(), whole.last()) {
                children.drain(first..=last);
            }
            merge_around(children, touched);
        }
    }
    node.settle();
}

/// Joins sparse children near `at` with a neighbour where both fit into one node.
fn merge_around(children: &mut Vec<Child>, at: usize) {
    let mut i = at.saturating_sub(1);
    let mut checks = 0;
    while i + 1 < children.len() && checks < 3 {
        checks += 1;
        let (left, right) = (&children[i].node, &children[i + 1].node);
        if (left.is_sparse() || right.is_sparse()) && left.fits_with(right) {
            let right = children.remove(i + 1).node;
            let left = Arc::make_mut(&mut children[i].node);
            match (&mut left.body, &right.body) {
                (Body::Leaf(l), Body::Leaf(r)) => l.append(r),
                (Body::Branch(l), Body::Branch(r)) => l.extend(r.iter().cloned()),
                _ => unreachable!("neighbours are of one height"),
            }
            left.settle();
            children[i].refresh();
        } else {
            i += 1;
        }
    }
    if children.capacity() > 2 * children.len() + 2 {
        children.shrink_to_fit();
    }
}

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
