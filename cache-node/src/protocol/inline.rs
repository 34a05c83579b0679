//! Inline commands: a line of words, as typed into a terminal, with Redis's quotes and escapes.

/// Splits a line into words appended to `words`, each with its range pushed to `ranges`. None: quotes are not balanced.
pub fn split(line: &[u8], words: &mut Vec<u8>, ranges: &mut Vec<(usize, usize)>) -> Option<()> {
    let mut rest = line;
    loop {
        let blank = rest.iter().take_while(|b| is_space(**b)).count();
        rest = &rest[blank..];
        if rest.is_empty() {
            return Some(());
        }
        let start = words.len();
        rest = word(rest, words)?;
        ranges.push((start, words.len()));
    }
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Reads one word and gives what follows it.
fn word<'a>(mut rest: &'a [u8], to: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'"', inner @ ..] => return closed(double_quoted(inner, to)?),
            [b'\'', inner @ ..] => return closed(single_quoted(inner, to)?),
            [] => return Some(rest),
            [b, ..] if is_space(*b) => return Some(rest),
            [b, after @ ..] => {
                to.push(*b);
                rest = after;
            }
        }
    }
}

/// A closing quote must be followed by a blank or by nothing.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    match rest.first() {
        Some(b) if !is_space(*b) => None,
        _ => Some(rest),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], to: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'x', h, l, after @ ..] if h.is_ascii_hexdigit() && l.is_ascii_hexdigit() => {
                to.push(hex(*h) << 4 | hex(*l));
                rest = after;
            }
            [b'\\', c, after @ ..] => {
                to.push(match c {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return Some(after),
            [c, after @ ..] => {
                to.push(*c);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], to: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'\'', after @ ..] => {
                to.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Some(after),
            [c, after @ ..] => {
                to.push(*c);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        split(line, &mut bytes, &mut ranges)?;
        Some(ranges.iter().map(|r| bytes[r.0..r.1].to_vec()).collect())
    }

    type Row = (&'static [u8], Option<Vec<&'static [u8]>>);

    #[test]
    fn words_quotes_and_escapes_are_redis_ones() {
        let table: [Row; 13] = [
            (b"", Some(vec![])),
            (b"  \t ", Some(vec![])),
            (b"SET  a b", Some(vec![b"SET", b"a", b"b"])),
            (b"SET \"a b\" 'c d' ", Some(vec![b"SET", b"a b", b"c d"])),
            (b"\"\\x41\\n\\\"\\z\"", Some(vec![b"A\n\"z"])),
            (b"\"\\xZ1\"", Some(vec![b"xZ1"])),
            (b"'it\\'s' '\\n'", Some(vec![b"it's", b"\\n"])),
            (b"pre\"in\"", Some(vec![b"prein"])),
            (b"''", Some(vec![b""])),
            (b"\"a\"b", None),
            (b"\"a", None),
            (b"'a", None),
            (b"'a\\", None),
        ];
        for (line, expected) in table {
            let expected = expected.map(|e| e.iter().map(|w| w.to_vec()).collect::<Vec<_>>());
            assert_eq!(words(line), expected, "{}", String::from_utf8_lossy(line));
        }
    }
}
