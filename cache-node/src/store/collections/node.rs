//! Nodes of a tree: leaves and branches that are bounded, counted and shared by copy on write; how an entry below one is changed or removed.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::budget::Budget;
use super::leaf::{LEAF_BYTES, Leaf};

/// Children of a branch at most.
pub const FANOUT: usize = 48;
/// What an allocation and its reference counts take beside its bytes, about.
const ALLOCATION: usize = 16;

/// Memory that is counted for as long as this lives.
#[derive(Debug)]
pub struct Charge {
    pub budget: Arc<Budget>,
    pub bytes: usize,
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
pub struct Child {
    pub node: Arc<Node>,
    /// The [`lead`] of its first entry.
    pub low: u64,
    /// Entries below.
    pub len: usize,
    /// Bytes of it and all below.
    pub bytes: usize,
}

impl Child {
    pub fn new(node: Arc<Node>) -> Self {
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
pub fn lead(entry: &[u8]) -> u64 {
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
pub enum Body {
    Leaf(Leaf),
    Branch(Vec<Child>),
}

#[derive(Debug)]
pub struct Node {
    pub body: Body,
    pub charge: Charge,
}

impl Clone for Node {
    /// A copy that is about to be changed. Its memory is counted though there may be no room: its owner asked for some before.
    fn clone(&self) -> Self {
        Self::new(self.body.clone(), self.charge.budget.clone())
    }
}

impl Node {
    pub fn new(body: Body, budget: Arc<Budget>) -> Self {
        let mut node = Self {
            body,
            charge: Charge::new(budget),
        };
        node.settle();
        node
    }

    pub fn len(&self) -> usize {
        match &self.body {
            Body::Leaf(leaf) => leaf.len(),
            Body::Branch(children) => children.iter().map(|c| c.len).sum(),
        }
    }

    pub fn bytes(&self) -> usize {
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

    pub fn first(&self) -> Option<&[u8]> {
        let mut node = self;
        loop {
            match &node.body {
                Body::Leaf(leaf) => return (!leaf.is_empty()).then(|| leaf.get(0)),
                Body::Branch(children) => node = &children.first()?.node,
            }
        }
    }

    /// The [`lead`] of the first entry.
    pub fn low(&self) -> u64 {
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
pub enum Change<'e> {
    Insert(&'e [u8]),
    Replace(&'e [u8]),
}

/// What a change has done to a node.
pub struct Changed {
    /// Bytes that it and all below hold more.
    pub bytes: isize,
    /// Its new right neighbours, when it was split.
    pub right: Vec<Arc<Node>>,
}

/// Changes the entry at `index` of the tree below `node`.
pub fn change(node: &mut Arc<Node>, index: usize, what: Change<'_>) -> Changed {
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
            match right.is_empty() {
                true => Vec::new(),
                false => right.into_iter().map(Body::Leaf).collect(),
            }
        }
        Body::Branch(children) => {
            let (i, parts, below) = change_child(children, index, what);
            bytes = below;
            split_branch(children, i, parts, &mut bytes)
        }
    };
    node.settle();
    let bytes = bytes + node.charge.bytes as isize - before as isize;
    if right.is_empty() {
        let right = Vec::new();
        return Changed { bytes, right };
    }
    let budget = &node.charge.budget;
    let new = |body| Arc::new(Node::new(body, budget.clone()));
    Changed {
        bytes,
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
pub fn child_below(
    children: &[Child],
    key_lead: u64,
    below: &mut impl FnMut(&[u8]) -> bool,
) -> usize {
    let begins_below = |child: &Child| match child.low.cmp(&key_lead) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => child.node.first().is_some_and(&mut *below),
    };
    children.partition_point(begins_below).saturating_sub(1)
}

/// The child with the entry at `index`, and its index there. `after`: an index behind a child's last entry is the child's too.
pub fn child_of(children: &[Child], index: usize, after: bool) -> (usize, usize) {
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
pub fn remove(node: &mut Arc<Node>, from: usize, to: usize) {
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
