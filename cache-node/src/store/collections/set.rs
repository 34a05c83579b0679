//! Sets: integers in order while all members are some and few; packed in the order they came; else by the members' hashes.

use std::borrow::Cow;

use super::keyed::Keyed;
use super::{Either, Object, Owned, Tools, View, packed};
use crate::protocol::number::parse_i64;

/// A set to be read.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a>(pub View<'a>);

fn text<'a>(value: i64) -> Cow<'a, [u8]> {
    Cow::Owned(itoa::Buffer::new().format(value).as_bytes().to_vec())
}

fn members(run: &[u8], from: usize) -> impl Iterator<Item = Cow<'_, [u8]>> {
    match packed::is_ints(run) {
        true => Either::Packed(packed::ints(run).skip(from).map(text)),
        false => Either::Big(packed::values(run).skip(from).map(Cow::Borrowed)),
    }
}

fn holds(run: &[u8], member: &[u8]) -> bool {
    match packed::is_ints(run) {
        true => parse_i64(member).is_some_and(|n| packed::find_int(run, n).is_ok()),
        false => packed::values(run).any(|m| m == member),
    }
}

impl<'a> Set<'a> {
    fn keyed(self) -> Result<&'a Keyed, &'a [u8]> {
        match self.0 {
            View::Packed(run) => Err(run),
            View::Big(Object::Set(keyed)) => Ok(keyed),
            View::Big(_) => Err(&[]),
        }
    }

    pub fn len(self) -> usize {
        match self.keyed() {
            Ok(keyed) => keyed.len(),
            Err(run) => packed::count(run),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn contains(self, member: &[u8]) -> bool {
        match self.keyed() {
            Ok(keyed) => keyed.get(member).is_some(),
            Err(run) => holds(run, member),
        }
    }

    pub fn at(self, index: usize) -> Option<Cow<'a, [u8]>> {
        match self.keyed() {
            Ok(keyed) => keyed.at(index).map(|(m, _)| Cow::Borrowed(m)),
            Err(run) if packed::is_ints(run) => {
                (index < packed::count(run)).then(|| text(packed::int(run, index)))
            }
            Err(run) => packed::get(run, index).map(Cow::Borrowed),
        }
    }

    pub fn iter_from(self, index: usize) -> impl Iterator<Item = Cow<'a, [u8]>> {
        match self.keyed() {
            Ok(keyed) => Either::Big(keyed.iter_from(index).map(|(m, _)| Cow::Borrowed(m))),
            Err(run) => Either::Packed(members(run, index)),
        }
    }

    pub fn iter(self) -> impl Iterator<Item = Cow<'a, [u8]>> {
        self.iter_from(0)
    }

    /// As [`Keyed::scan`]; a packed one is given at once.
    pub fn scan(self, cursor: u64, count: usize, mut each: impl FnMut(Cow<'a, [u8]>)) -> u64 {
        match self.keyed() {
            Ok(keyed) => keyed.scan(cursor, count, |m, _| each(Cow::Borrowed(m))),
            Err(run) => {
                members(run, 0).for_each(each);
                0
            }
        }
    }
}

/// Whether the member is new.
pub fn add(set: &mut Owned, member: &[u8], tools: &Tools<'_>) -> bool {
    let limits = tools.limits;
    if let Owned::Packed(run) = set {
        let number = parse_i64(member);
        if packed::is_ints(run) || packed::count(run) == 0 {
            if let Some(number) = number
                && (packed::count(run) < limits.set_ints || packed::find_int(run, number).is_ok())
                && limits.set_ints > 0
            {
                return packed::insert_int(run, number);
            }
        } else if holds(run, member) {
            return false;
        }
        let all: Vec<Cow<'_, [u8]>> = members(run, 0).collect();
        let longest = all.iter().map(|m| m.len()).max().unwrap_or(0);
        // Too many integers become a table at once, as in Redis.
        let fits = member.len().max(longest) <= limits.set_value
            && all.len() < limits.set_entries
            && !(number.is_some() && packed::is_ints(run))
            && run.len() + member.len() + 5 <= packed::BYTES_MAX;
        if fits {
            if packed::is_ints(run) {
                let mut entries = packed::empty();
                all.iter().for_each(|m| packed::push(&mut entries, m));
                *run = entries;
            }
            packed::push(run, member);
            return true;
        }
        let mut keyed = Keyed::new(tools.budget, tools.seed);
        for member in &all {
            keyed.add(member);
        }
        *set = Owned::Big(Box::new(Object::Set(keyed)));
    }
    match set {
        Owned::Big(object) => match &mut **object {
            Object::Set(keyed) => keyed.add(member),
            _ => false,
        },
        Owned::Packed(_) => false,
    }
}

/// Whether the member was there.
pub fn remove(set: &mut Owned, member: &[u8]) -> bool {
    match set {
        Owned::Packed(run) if packed::is_ints(run) => {
            parse_i64(member).is_some_and(|number| packed::remove_int(run, number))
        }
        Owned::Packed(run) => {
            let found = packed::entries(run).find(|(_, m)| *m == member);
            let range = found.map(|(range, _)| range);
            if let Some(range) = range.clone() {
                packed::cut(run, range, 1);
            }
            range.is_some()
        }
        Owned::Big(object) => match &mut **object {
            Object::Set(keyed) => keyed.remove(member),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::super::super::budget::Budget;
    use super::super::super::item::Kind;
    use super::super::super::tests::Lcg;
    use super::super::test_tools;
    use super::*;

    #[test]
    fn it_is_a_set_in_every_encoding() {
        let budget = Arc::new(Budget::new(0));
        let tools = test_tools(&budget);
        let table = [
            (1, 300, false, "intset"),
            (2, 2_000, false, "hashtable"),
            (3, 60, true, "packed"),
            (4, 500, true, "hashtable"),
        ];
        for (seed, members, words, encoding) in table {
            let mut random = Lcg(seed);
            let (mut set, mut model) = (Owned::empty(), BTreeSet::new());
            for _ in 0..8_000 {
                let n = random.below(members) as i64 - 100;
                let member = match words && n % 3 == 0 {
                    true => format!("m{n}"),
                    false => n.to_string(),
                }
                .into_bytes();
                match random.below(4) {
                    0 => assert_eq!(remove(&mut set, &member), model.remove(&member)),
                    _ => assert_eq!(add(&mut set, &member, &tools), model.insert(member.clone())),
                }
                let view = Set(set.view());
                assert_eq!(view.contains(&member), model.contains(&member));
                assert_eq!(view.len(), model.len());
            }
            let view = Set(set.view());
            let all: BTreeSet<_> = view.iter().map(Cow::into_owned).collect();
            assert_eq!(all, model);
            assert_eq!(view.at(7), view.iter_from(7).next());
            assert_eq!(view.at(model.len()), None);
            match encoding {
                "packed" => assert!(matches!(set, Owned::Packed(_))),
                name => assert_eq!(set.view().encoding(Kind::Set), name),
            }
        }
    }

    #[test]
    fn integers_become_words_and_a_table_at_the_limits() {
        let budget = Arc::new(Budget::new(0));
        let tools = test_tools(&budget);
        let mut set = Owned::empty();
        for i in 0..512 {
            assert!(add(&mut set, i.to_string().as_bytes(), &tools));
        }
        assert_eq!(set.view().encoding(Kind::Set), "intset");
        assert!(!add(&mut set, b"7", &tools));
        assert!(add(&mut set, b"512", &tools));
        assert!(matches!(set, Owned::Big(_)));
        let mut set = Owned::empty();
        assert!(add(&mut set, b"1", &tools) && add(&mut set, b"x", &tools));
        assert!(matches!(&set, Owned::Packed(run) if !packed::is_ints(run)));
        assert!(!add(&mut set, b"1", &tools) && remove(&mut set, b"1"));
        assert!(add(&mut set, &[b'y'; 65], &tools));
        assert!(matches!(set, Owned::Big(_)) && Set(set.view()).contains(b"x"));
    }
}
