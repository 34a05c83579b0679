//! Lists: packed while their bytes are few; else a tree.

use super::tree::Tree;
use super::{Either, Object, Owned, Tools, View, packed};

/// A list to be read.
#[derive(Debug, Clone, Copy)]
pub struct List<'a>(pub View<'a>);

impl<'a> List<'a> {
    fn tree(self) -> Result<&'a Tree, &'a [u8]> {
        match self.0 {
            View::Packed(run) => Err(run),
            View::Big(Object::List(tree)) => Ok(tree),
            View::Big(_) => Err(&[]),
        }
    }

    pub fn len(self) -> usize {
        match self.tree() {
            Ok(tree) => tree.len(),
            Err(run) => packed::count(run),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn get(self, index: usize) -> Option<&'a [u8]> {
        match self.tree() {
            Ok(tree) => tree.get(index),
            Err(run) => packed::get(run, index),
        }
    }

    pub fn iter_from(self, index: usize) -> impl Iterator<Item = &'a [u8]> {
        match self.tree() {
            Ok(tree) => Either::Big(tree.iter_from(index)),
            Err(run) => Either::Packed(packed::values(run).skip(index)),
        }
    }

    /// From an index back to the first.
    pub fn iter_back(self, index: usize) -> impl Iterator<Item = &'a [u8]> {
        match self.tree() {
            Ok(tree) => Either::Big(tree.iter_back(index)),
            Err(run) => {
                let all: Vec<&[u8]> = packed::values(run).take(index.saturating_add(1)).collect();
                Either::Packed(all.into_iter().rev())
            }
        }
    }
}

/// Whether a packed list of so many entries and bytes stays packed.
fn fits(count: usize, bytes: usize, tools: &Tools<'_>) -> bool {
    count <= tools.limits.list_entries && bytes <= tools.limits.list_bytes
}

fn tree<'l>(list: &'l mut Owned, tools: &Tools<'_>) -> Option<&'l mut Tree> {
    if let Owned::Packed(run) = list {
        let mut tree = Tree::new(tools.budget);
        packed::values(run).for_each(|entry| tree.push(entry));
        *list = Owned::Big(Box::new(Object::List(tree)));
    }
    match list {
        Owned::Big(object) => match &mut **object {
            Object::List(tree) => Some(tree),
            _ => None,
        },
        Owned::Packed(_) => None,
    }
}

/// Adds before the element at `index`, or at the end.
pub fn insert(list: &mut Owned, index: usize, element: &[u8], tools: &Tools<'_>) {
    if let Owned::Packed(run) = list
        && fits(
            packed::count(run) + 1,
            run.len() + packed::entry_bytes(element.len()),
            tools,
        )
    {
        if index == packed::count(run) {
            packed::push(run, element);
        } else {
            packed::insert(run, index, element);
        }
        return;
    }
    if let Some(tree) = tree(list, tools) {
        tree.insert(index, element);
    }
}

/// Puts another element in the place of the one at `index`.
pub fn replace(list: &mut Owned, index: usize, element: &[u8], tools: &Tools<'_>) {
    if let Owned::Packed(run) = list {
        let Some((range, _)) = packed::entries(run).nth(index) else {
            return;
        };
        let bytes = run.len() - range.len() + packed::entry_bytes(element.len());
        if fits(packed::count(run), bytes, tools) {
            packed::replace(run, range, element);
            return;
        }
    }
    if let Some(tree) = tree(list, tools) {
        tree.replace(index, element);
    }
}

/// Removes the elements from `from` to before `to`.
pub fn remove_range(list: &mut Owned, from: usize, to: usize) {
    match list {
        Owned::Packed(run) => packed::remove_range(run, from, to.min(packed::count(run))),
        Owned::Big(object) => {
            if let Object::List(tree) = &mut **object {
                tree.remove_range(from, to);
            }
        }
    }
}

/// Removes up to `most` elements that equal `element`, from the end when `back`. Gives how many.
pub fn remove_equal(list: &mut Owned, element: &[u8], most: usize, back: bool) -> usize {
    let view = List(list.view());
    let last = view.len().wrapping_sub(1);
    let mut found: Vec<usize> = if back {
        let places = view.iter_back(last).enumerate();
        let equal = places.filter(|(_, e)| *e == element);
        equal.map(|(i, _)| last - i).take(most).collect()
    } else {
        let places = view.iter_from(0).enumerate();
        let equal = places.filter(|(_, e)| *e == element);
        equal.map(|(i, _)| i).take(most).collect()
    };
    found.sort_unstable();
    for &index in found.iter().rev() {
        remove_range(list, index, index + 1);
    }
    found.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::budget::Budget;
    use super::super::super::tests::Lcg;
    use super::super::test_tools;
    use super::*;

    #[test]
    fn it_is_a_vector_packed_and_big() {
        let budget = Arc::new(Budget::new(0));
        let tools = test_tools(&budget);
        for (seed, growth) in [(1, 2), (2, 4), (3, 9)] {
            let mut random = Lcg(seed);
            let (mut list, mut model) = (Owned::empty(), Vec::<Vec<u8>>::new());
            let (mut longest_packed, mut big) = (0, false);
            for step in 0..4_000 {
                let at = random.below(model.len() as u64 + 1) as usize;
                let element = vec![b'a' + random.below(3) as u8; random.below(90) as usize];
                match random.below(growth + 4) {
                    0 => {
                        let to = (at + random.below(4) as usize).min(model.len());
                        remove_range(&mut list, at, to);
                        model.drain(at..to);
                    }
                    1 if at < model.len() => {
                        replace(&mut list, at, &element, &tools);
                        model[at] = element;
                    }
                    2 if at < model.len() => {
                        let (element, back) = (model[at].clone(), random.below(2) == 0);
                        let most = random.below(3) as usize;
                        let before = model.len();
                        let mut places: Vec<usize> = (0..model.len()).collect();
                        if back {
                            places.reverse();
                        }
                        places.retain(|&i| model[i] == element);
                        places.truncate(most);
                        places.sort_unstable_by(|a, b| b.cmp(a));
                        places.iter().for_each(|&i| drop(model.remove(i)));
                        let removed = remove_equal(&mut list, &element, most, back);
                        assert_eq!(removed, before - model.len());
                    }
                    3 => {
                        insert(&mut list, model.len(), &element, &tools);
                        model.push(element);
                    }
                    4 => {
                        insert(&mut list, 0, &element, &tools);
                        model.insert(0, element);
                    }
                    _ => {
                        insert(&mut list, at, &element, &tools);
                        model.insert(at, element);
                    }
                }
                assert_eq!(List(list.view()).len(), model.len());
                // It is packed until its bytes were too many once.
                let bytes = model.iter().map(|e| packed::entry_bytes(e.len()));
                big |= packed::empty().len() + bytes.sum::<usize>() > tools.limits.list_bytes;
                assert_eq!(matches!(list, Owned::Big(_)), big);
                if !big {
                    longest_packed = longest_packed.max(model.len());
                }
                if step % 50 == 0 {
                    let view = List(list.view());
                    assert!(view.iter_from(0).eq(model.iter().map(Vec::as_slice)));
                }
            }
            assert!(longest_packed > 100 && big, "{longest_packed} {big}");
            let view = List(list.view());
            assert!(view.iter_from(0).eq(model.iter().map(Vec::as_slice)));
            let last = model.len() - 1;
            assert!(
                view.iter_back(last)
                    .eq(model.iter().rev().map(Vec::as_slice))
            );
            for i in 0..=model.len() {
                assert_eq!(view.get(i), model.get(i).map(Vec::as_slice));
            }
        }
    }
}
