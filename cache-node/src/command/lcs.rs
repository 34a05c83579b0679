//! `LCS`: the longest common subsequence of two strings.

use super::access::Access;
use super::errors::{NOT_INTEGER, SYNTAX};
use super::strings::string_max;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::compress::{Kept, Value};

pub const COMMANDS: &[Command] = &[Command::new("lcs", -3, Group::String, lcs)
    .flags(Flags::READONLY)
    .keys(1, 2, 1)
    .doc(
        "7.0.0",
        "O(N*M) where N and M are the lengths of s1 and s2, respectively",
        "Finds the longest common substring.",
    )];

#[derive(Debug, Clone, Copy, Default)]
struct Options {
    indexes: bool,
    length: bool,
    with_length: bool,
    least: i64,
}

fn options(args: Args<'_>) -> Result<Options, Stop> {
    let mut options = Options::default();
    let mut i = 3;
    while let Some(word) = args.get(i) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"IDX") {
            options.indexes = true;
        } else if is(b"LEN") {
            options.length = true;
        } else if is(b"WITHMATCHLEN") {
            options.with_length = true;
        } else if let (true, Some(least)) = (is(b"MINMATCHLEN"), args.get(i + 1)) {
            options.least = parse_i64(least).ok_or(NOT_INTEGER)?.max(0);
            i += 1;
        } else {
            return Err(SYNTAX.into());
        }
        i += 1;
    }
    if options.indexes && options.length {
        return Err("ERR If you want both the length and indexes, please just use IDX.".into());
    }
    Ok(options)
}

fn lcs(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let keys = [args.at(1), args.at(2)];
    let (mut guard, points) = context.lock_keys(keys.into_iter(), Access::Read)?;
    let mut value = |i: usize| -> Result<(Vec<u8>, Option<Kept>), Stop> {
        let item = guard.string(points[i], keys[i], context.now_ms);
        let item = item.map_err(|_| "ERR The specified keys must contain string values")?;
        Ok(match item.map(|item| item.value()) {
            None => Default::default(),
            Some(Value::Plain(value)) => (value.to_vec(), None),
            Some(Value::Packed(packed)) => (Vec::new(), Some(packed.keep())),
        })
    };
    let found = [value(0)?, value(1)?];
    // The work is done on copies, without the lock.
    drop(guard);
    let [a, b] = found.map(|(plain, packed)| packed.map_or(plain, |packed| packed.unpack()));
    let options = options(args)?;
    let cells = (a.len() as u64 + 1).saturating_mul(b.len() as u64 + 1);
    if cells.saturating_mul(4) > string_max(context) {
        return Err(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len".into(),
        );
    }
    let table = Table::new(&a, &b);
    let reply = &mut context.reply;
    if options.length {
        reply.integer(i64::from(table.length()));
        return Ok(());
    }
    let (common, matches) = table.trace();
    if !options.indexes {
        reply.bulk(&common);
        return Ok(());
    }
    let shown = |m: &&Match| i64::from(m.length()) >= options.least;
    reply.map(2);
    reply.text("matches");
    reply.array(matches.iter().filter(shown).count());
    for m in matches.iter().filter(shown) {
        reply.array(2 + usize::from(options.with_length));
        for (start, end) in [m.a, m.b] {
            reply.array(2);
            reply.integer(start as i64);
            reply.integer(end as i64);
        }
        if options.with_length {
            reply.integer(i64::from(m.length()));
        }
    }
    reply.text("len");
    reply.integer(i64::from(table.length()));
    Ok(())
}

/// A run of common bytes: where it is in both strings, ends inclusive.
#[derive(Debug, PartialEq, Eq)]
struct Match {
    a: (usize, usize),
    b: (usize, usize),
}

impl Match {
    fn length(&self) -> u32 {
        (self.a.1 - self.a.0 + 1) as u32
    }
}

/// Lengths of the longest common subsequences of all pairs of prefixes.
struct Table<'a> {
    a: &'a [u8],
    b: &'a [u8],
    cells: Vec<u32>,
}

impl<'a> Table<'a> {
    fn new(a: &'a [u8], b: &'a [u8]) -> Self {
        let width = b.len() + 1;
        let mut cells = vec![0; (a.len() + 1) * width];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                cells[i * width + j] = if a[i - 1] == b[j - 1] {
                    cells[(i - 1) * width + j - 1] + 1
                } else {
                    cells[(i - 1) * width + j].max(cells[i * width + j - 1])
                };
            }
        }
        Self { a, b, cells }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * (self.b.len() + 1) + j]
    }

    fn length(&self) -> u32 {
        self.at(self.a.len(), self.b.len())
    }

    /// The subsequence, and its runs from the end to the beginning, chosen as Redis chooses among equals.
    fn trace(&self) -> (Vec<u8>, Vec<Match>) {
        let (mut i, mut j) = (self.a.len(), self.b.len());
        let (mut common, mut matches) = (Vec::new(), Vec::new());
        let mut run: Option<Match> = None;
        while i > 0 && j > 0 {
            if self.a[i - 1] == self.b[j - 1] {
                common.push(self.a[i - 1]);
                i -= 1;
                j -= 1;
                match &mut run {
                    Some(run) => (run.a.0, run.b.0) = (i, j),
                    None => {
                        run = Some(Match {
                            a: (i, i),
                            b: (j, j),
                        })
                    }
                }
            } else {
                if self.at(i - 1, j) > self.at(i, j - 1) {
                    i -= 1;
                } else {
                    j -= 1;
                }
                matches.extend(run.take());
            }
        }
        matches.extend(run);
        common.reverse();
        (common, matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_subsequence_and_its_runs() {
        let table = Table::new(b"ohmytext", b"mynewtext");
        let (common, matches) = table.trace();
        assert_eq!(common, b"mytext");
        let runs: Vec<_> = matches.iter().map(|m| (m.a, m.b)).collect();
        assert_eq!(runs, [((4, 7), (5, 8)), ((2, 3), (0, 1))]);
        assert_eq!(Table::new(b"", b"x").trace(), (vec![], vec![]));
    }
}
