//! Floating point as Redis 7.2 reads and prints it.

/// The shortest text that reads back as the same number: an integer plainly, else with an exponent where that is shorter.
pub fn format(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    const PLAIN: f64 = (i64::MAX / 2) as f64;
    if value.abs() <= PLAIN && value.fract() == 0.0 {
        return (value as i64).to_string();
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let digits = mantissa.replace('.', "");
    // An exponent has at most three digits.
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = digits.len() as i32;
    // The number is `digits * 10^scale`.
    let scale = exponent - (count - 1);
    if scale >= 0 && exponent.abs() < count + 7 {
        return format!("{sign}{digits}{}", "0".repeat(scale as usize));
    }
    if scale < 0 && (scale > -7 || exponent.abs() < 4) {
        let whole = count + scale;
        return match usize::try_from(whole) {
            Ok(whole) if whole > 0 => format!("{sign}{}.{}", &digits[..whole], &digits[whole..]),
            _ => format!(
                "{sign}0.{}{digits}",
                "0".repeat(whole.unsigned_abs() as usize)
            ),
        };
    }
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!(
        "{sign}{first}{point}{rest}e{exponent_sign}{}",
        exponent.abs()
    )
}

/// A number as a score is given: whole, in the range of doubles, infinities by name, no NaN.
pub fn parse(text: &[u8]) -> Option<f64> {
    let value = parse_bound(text).filter(|_| !text.is_empty())?;
    let named = text.iter().any(|b| matches!(b, b'n' | b'N'));
    let digits = text.split(|b| matches!(b, b'e' | b'E')).next()?;
    let tiny = value == 0.0 && digits.iter().any(|b| (b'1'..=b'9').contains(b));
    (!tiny && (value.is_finite() || named)).then_some(value)
}

/// As `strtod` reads it for the bound of a range: what is beyond the range is infinite, nothing is zero.
pub fn parse_bound(text: &[u8]) -> Option<f64> {
    if text.is_empty() {
        return Some(0.0);
    }
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (!value.is_nan()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_redis_prints_them() {
        let table = [
            (0.0, "0"),
            (1.0, "1"),
            (-3.5, "-3.5"),
            (0.1, "0.1"),
            (1e16, "10000000000000000"),
            (1e18, "1000000000000000000"),
            (1e20, "1e+20"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (0.000_001, "0.000001"),
            (1e-7, "1e-7"),
            (1.25e-10, "1.25e-10"),
            (3.000_000_1, "3.0000001"),
            (-0.001_25, "-0.00125"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, text) in table {
            assert_eq!(format(value), text);
            assert_eq!(parse(text.as_bytes()), Some(value));
        }
    }

    #[test]
    fn what_is_no_score_is_none() {
        for text in [
            "", "nan", "x", " 1", "1 ", "1e400", "1e-400", "--1", "-", "1e",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        for (text, value) in [
            ("+inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("0e-400", 0.0),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(value));
        }
        assert_eq!(parse_bound(b"1e400"), Some(f64::INFINITY));
        assert_eq!(parse_bound(b"nan"), None);
    }
}
