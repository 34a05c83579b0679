//! Patterns as Redis matches them: `*`, `?`, `[a-z]`, `[^x]` and backslashes.

/// Whether all of `text` matches. As in Redis, an empty text matches the empty pattern only.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not match here.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        match one(pattern, p, text[t], ignore_case) {
            Some(next) => (p, t) = (next, t + 1),
            None => match star {
                Some((after, from)) => {
                    p = after;
                    t = from + 1;
                    star = Some((after, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// Matches one byte with what is at `p`. Gives where the pattern goes on.
fn one(pattern: &[u8], p: usize, byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |b: u8| {
        if ignore_case {
            b.to_ascii_lowercase()
        } else {
            b
        }
    };
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let (matched, next) = class(&pattern[p + 1..], byte, &fold);
            matched.then_some(p + 1 + next)
        }
        b'\\' if p + 1 < pattern.len() => (fold(pattern[p + 1]) == fold(byte)).then_some(p + 2),
        literal => (fold(literal) == fold(byte)).then_some(p + 1),
    }
}

/// Matches a byte with a class, whose bracket is open. Gives where the pattern goes on: behind the bracket, or at the end if none closes it.
fn class(mut rest: &[u8], byte: u8, fold: &dyn Fn(u8) -> u8) -> (bool, usize) {
    let all = rest.len();
    let not = rest.first() == Some(&b'^');
    if not {
        rest = &rest[1..];
    }
    let mut matched = false;
    loop {
        match rest {
            [b'\\', escaped, after @ ..] => {
                matched |= *escaped == byte;
                rest = after;
            }
            [b']', after @ ..] => return (matched != not, all - after.len()),
            [] => return (matched != not, all),
            [from, b'-', to, after @ ..] => {
                // Bytes are signed where Redis compares them.
                let (from, to) = (*from as i8, *to as i8);
                let signed = |b: i8| fold(b as u8) as i8;
                let range = signed(from.min(to))..=signed(from.max(to));
                matched |= range.contains(&signed(byte as i8));
                rest = after;
            }
            [literal, after @ ..] => {
                matched |= fold(*literal) == fold(byte);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let table = [
            ("*", "x", true),
            ("", "", true),
            ("*", "", false),
            ("a*", "a", true),
            ("a**", "a", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxxcx", false),
            ("h?llo", "hallo", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hello", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("h[c-d]llo", "hbllo", false),
            ("[\\]]", "]", true),
            ("[a", "a", true),
            ("[", "[", false),
            ("[^", "x", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a\\", "a\\", true),
            ("[a-]x", "ax", false),
            ("abc", "abcd", false),
            ("abcd", "abc", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes(), false),
                expected,
                "{pattern} {text}"
            );
        }
        assert!(matches(b"MAX*", b"maxmemory", true) && !matches(b"MAX*", b"maxmemory", false));
    }

    #[test]
    fn many_stars_take_no_exponential_time_and_no_stack() {
        let pattern = b"*a".repeat(20_000);
        assert!(!matches(
            &pattern,
            &[&b"a".repeat(19_999)[..], b"b"].concat(),
            false
        ));
    }
}
