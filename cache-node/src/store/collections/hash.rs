//! Hashes: packed as fields and values in turn, in the order they came; else by the fields' hashes.

use super::keyed::Keyed;
use super::{Either, Object, Owned, Tools, View, packed};

/// A hash to be read.
#[derive(Debug, Clone, Copy)]
pub struct Hash<'a>(pub View<'a>);

impl<'a> Hash<'a> {
    fn keyed(self) -> Result<&'a Keyed, &'a [u8]> {
        match self.0 {
            View::Packed(run) => Err(run),
            View::Big(Object::Hash(keyed)) => Ok(keyed),
            View::Big(_) => Err(&[]),
        }
    }

    pub fn len(self) -> usize {
        match self.keyed() {
            Ok(keyed) => keyed.len(),
            Err(run) => packed::count(run) / 2,
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn get(self, field: &[u8]) -> Option<&'a [u8]> {
        match self.keyed() {
            Ok(keyed) => keyed.get(field),
            Err(run) => pairs(run).find(|(f, _)| *f == field).map(|(_, v)| v),
        }
    }

    pub fn at(self, index: usize) -> Option<(&'a [u8], &'a [u8])> {
        match self.keyed() {
            Ok(keyed) => keyed.at(index),
            Err(run) => pairs(run).nth(index),
        }
    }

    pub fn iter_from(self, index: usize) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        match self.keyed() {
            Ok(keyed) => Either::Big(keyed.iter_from(index)),
            Err(run) => Either::Packed(pairs(run).skip(index)),
        }
    }

    /// As [`Keyed::scan`]; a packed one is given at once.
    pub fn scan(self, cursor: u64, count: usize, mut each: impl FnMut(&'a [u8], &'a [u8])) -> u64 {
        match self.keyed() {
            Ok(keyed) => keyed.scan(cursor, count, each),
            Err(run) => {
                pairs(run).for_each(|(f, v)| each(f, v));
                0
            }
        }
    }
}

fn pairs(run: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut values = packed::values(run);
    std::iter::from_fn(move || Some((values.next()?, values.next()?)))
}

/// Sets a field. Whether it is new.
pub fn put(hash: &mut Owned, field: &[u8], value: &[u8], tools: &Tools<'_>) -> bool {
    let limits = tools.limits;
    if let Owned::Packed(run) = hash {
        let mut entries = packed::entries(run);
        let mut found = None;
        while let Some((_, name)) = entries.next() {
            let Some((range, _)) = entries.next() else {
                break;
            };
            if name == field {
                found = Some(range);
                break;
            }
        }
        let count = packed::count(run) / 2 + usize::from(found.is_none());
        let fits = field.len().max(value.len()) <= limits.hash_value
            && count <= limits.hash_entries.min(packed::COUNT_MAX / 2)
            && run.len() + field.len() + value.len() + 10 <= packed::BYTES_MAX;
        if fits {
            let new = found.is_none();
            match found {
                Some(range) => packed::replace(run, range, value),
                None => {
                    packed::push(run, field);
                    packed::push(run, value);
                }
            }
            return new;
        }
        let mut keyed = Keyed::new(tools.budget, tools.seed);
        for (field, value) in pairs(run) {
            keyed.put(field, value);
        }
        *hash = Owned::Big(Box::new(Object::Hash(keyed)));
    }
    match hash {
        Owned::Big(object) => match &mut **object {
            Object::Hash(keyed) => keyed.put(field, value),
            _ => false,
        },
        Owned::Packed(_) => false,
    }
}

/// Whether the field was there.
pub fn remove(hash: &mut Owned, field: &[u8]) -> bool {
    match hash {
        Owned::Packed(run) => {
            let mut entries = packed::entries(run);
            while let (Some((name_at, name)), Some((value_at, _))) =
                (entries.next(), entries.next())
            {
                if name == field {
                    packed::cut(run, name_at.start..value_at.end, 2);
                    return true;
                }
            }
            false
        }
        Owned::Big(object) => match &mut **object {
            Object::Hash(keyed) => keyed.remove(field),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::super::budget::Budget;
    use super::super::super::tests::Lcg;
    use super::super::test_tools;
    use super::*;

    #[test]
    fn it_is_a_map_packed_and_big() {
        let budget = Arc::new(Budget::new(0));
        let tools = test_tools(&budget);
        for (seed, fields) in [(1, 20), (2, 128), (3, 400)] {
            let mut random = Lcg(seed);
            let (mut hash, mut model) = (Owned::empty(), BTreeMap::new());
            for _ in 0..5_000 {
                let field = random.below(fields).to_string().into_bytes();
                match random.below(4) {
                    0 => assert_eq!(remove(&mut hash, &field), model.remove(&field).is_some()),
                    _ => {
                        let value = vec![b'v'; random.below(65) as usize];
                        let new = put(&mut hash, &field, &value, &tools);
                        assert_eq!(new, model.insert(field.clone(), value).is_none());
                    }
                }
                let view = Hash(hash.view());
                assert_eq!(view.get(&field), model.get(&field).map(Vec::as_slice));
                assert_eq!(view.len(), model.len());
            }
            let view = Hash(hash.view());
            assert_eq!(matches!(hash, Owned::Big(_)), fields > 128);
            let owned = |(f, v): (&[u8], &[u8])| (f.to_vec(), v.to_vec());
            let all: BTreeMap<_, _> = view.iter_from(0).map(owned).collect();
            assert_eq!(all, model);
            let mut scanned = BTreeMap::new();
            let mut cursor = 0;
            loop {
                cursor = view.scan(cursor, 10, |f, v| {
                    drop(scanned.insert(f.to_vec(), v.to_vec()))
                });
                if cursor == 0 {
                    break;
                }
            }
            assert_eq!(scanned, model);
            assert_eq!(view.at(5).map(owned), view.iter_from(5).next().map(owned));
            // One value beyond the limit makes it big, with everything in it.
            put(&mut hash, b"big", &[0; 65], &tools);
            assert!(matches!(hash, Owned::Big(_)));
            assert_eq!(Hash(hash.view()).len(), model.len() + 1);
            for field in model.keys() {
                assert!(remove(&mut hash, field));
            }
            assert!(remove(&mut hash, b"big"));
            assert!(Hash(hash.view()).is_empty());
        }
    }
}
