//! Numbers as C's `%g` prints them, which is how Redis and Lua's libraries show them.

/// `%.<digits>g`.
pub fn general(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        let text = if value.is_nan() { "nan" } else { "inf" };
        return if value.is_sign_negative() {
            format!("-{text}")
        } else {
            text.into()
        };
    }
    let digits = digits.max(1);
    let scientific = format!("{value:.*e}", digits - 1);
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

fn trimmed(number: &str) -> &str {
    if !number.contains('.') {
        return number;
    }
    number.trim_end_matches('0').trim_end_matches('.')
}

/// C's conversion of a double to a 64-bit integer, as x86 does it: what does not fit is the least.
pub fn truncated(value: f64) -> i64 {
    const REACH: f64 = 9_223_372_036_854_775_808.0;
    if (-REACH..REACH).contains(&value) {
        value as i64
    } else {
        i64::MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_c_prints_them() {
        let table = [
            (0.1, 17, "0.10000000000000001"),
            (0.1, 14, "0.1"),
            (5.0, 17, "5"),
            (-0.0, 17, "-0"),
            (1e16, 17, "10000000000000000"),
            (1e17, 17, "1e+17"),
            (123_456_789_012_345_678.0, 17, "1.2345678901234568e+17"),
            (1e-4, 17, "0.0001"),
            (0.000_01, 14, "1e-05"),
            (1.5e300, 14, "1.5e+300"),
            (99_999_999_999_999.9, 14, "1e+14"),
            (3.0, 1, "3"),
            (25.0, 1, "2e+01"),
            (f64::INFINITY, 14, "inf"),
            (f64::NEG_INFINITY, 14, "-inf"),
        ];
        for (value, digits, text) in table {
            assert_eq!(general(value, digits), text, "{value} {digits}");
        }
    }

    #[test]
    fn as_c_truncates_them() {
        let table = [
            (3.7, 3),
            (-3.7, -3),
            (1e300, i64::MIN),
            (-1e300, i64::MIN),
            (f64::NAN, i64::MIN),
            (9_223_372_036_854_774_784.0, 9_223_372_036_854_774_784),
        ];
        for (value, whole) in table {
            assert_eq!(truncated(value), whole, "{value}");
        }
    }
}
