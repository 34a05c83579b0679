//! The 80-bit floating point that `INCRBYFLOAT` computes in on Redis's usual machines: 64 bits of precision, correctly rounded, so that
//! sums have the same digits here.

use std::fmt;

use num_bigint::{BigInt, BigUint, Sign};

/// Digits of a number that is read at most; Redis has about this bound too.
const TEXT_MAX: usize = 5 * 1024;
const PRECISION: u64 = 64;
/// Binary exponents of the largest and the smallest normal number.
const EXPONENT_MAX: i64 = 16_383;
const EXPONENT_MIN: i64 = -16_382;
/// Decimal places that are shown at most.
const PLACES: u32 = 17;

/// `mantissa * 2^exponent`, or an infinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongDouble {
    mantissa: BigInt,
    exponent: i64,
    infinite: bool,
}

impl LongDouble {
    pub const ZERO: Self = Self {
        mantissa: BigInt::ZERO,
        exponent: 0,
        infinite: false,
    };

    /// Reads a decimal number as `strtold` does; None: it is none, or out of range.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > TEXT_MAX {
            return None;
        }
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
            return Some(Self {
                infinite: true,
                ..Self::ZERO
            });
        }
        let (digits, scale) = decimal(unsigned)?;
        let number = BigUint::parse_bytes(&digits, 10)?;
        if number == BigUint::ZERO {
            return Some(Self::ZERO);
        }
        // Beyond any long double either way; keeps the powers of ten small.
        let magnitude = digits.len() as i64 + scale;
        if !(-5_000..=5_000).contains(&magnitude) {
            return None;
        }
        let power = BigUint::from(10u32).pow(u32::try_from(scale.unsigned_abs()).ok()?);
        let (numerator, denominator) = if scale >= 0 {
            (number * power, BigUint::from(1u32))
        } else {
            (number, power)
        };
        let sign = if negative { Sign::Minus } else { Sign::Plus };
        // Two bits beyond the precision, and the last one set when anything is left, round as the exact quotient.
        let shift = PRECISION as i64 + 2 + denominator.bits() as i64 - numerator.bits() as i64;
        let (numerator, denominator) = if shift >= 0 {
            (numerator << shift.unsigned_abs(), denominator)
        } else {
            (numerator, denominator << shift.unsigned_abs())
        };
        let quotient = &numerator / &denominator;
        let rest = numerator - &quotient * denominator;
        let sticky = BigUint::from(u32::from(rest != BigUint::ZERO));
        let exact = BigInt::from_biguint(sign, (quotient << 1u32) | sticky);
        rounded(exact, -shift - 1)
    }

    pub fn is_finite(&self) -> bool {
        !self.infinite
    }

    /// The sum; None: it is no finite number.
    pub fn add(self, other: Self) -> Option<Self> {
        if self.infinite || other.infinite {
            return None;
        }
        let exponent = self.exponent.min(other.exponent);
        let aligned = |n: Self| n.mantissa << (n.exponent - exponent).unsigned_abs();
        rounded(aligned(self) + aligned(other), exponent)
    }
}

/// Digits before and after the point as one number, and the power of ten it is to be multiplied by.
fn decimal(text: &[u8]) -> Option<(Vec<u8>, i64)> {
    let split = text.iter().position(|b| matches!(b, b'e' | b'E'));
    let (number, exponent) = match split {
        Some(at) => (&text[..at], exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (whole, fraction) = match number.iter().position(|&b| b == b'.') {
        Some(at) => (&number[..at], &number[at + 1..]),
        None => (number, &[][..]),
    };
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    let digits = match &digits[zeros..] {
        [] => vec![b'0'],
        rest => rest.to_vec(),
    };
    Some((digits, exponent - fraction.len() as i64))
}

fn exponent(text: &[u8]) -> Option<i64> {
    let digits = text
        .strip_prefix(b"-")
        .or(text.strip_prefix(b"+"))
        .unwrap_or(text);
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Rounds to the precision, ties to even. None: out of range.
fn rounded(mantissa: BigInt, exponent: i64) -> Option<LongDouble> {
    let (sign, mut magnitude) = mantissa.into_parts();
    let mut exponent = exponent;
    if magnitude == BigUint::ZERO {
        return Some(LongDouble::ZERO);
    }
    let excess = magnitude.bits().saturating_sub(PRECISION);
    if excess > 0 {
        magnitude = round_shift(magnitude, excess);
        exponent += excess as i64;
    }
    let highest = exponent + magnitude.bits() as i64 - 1;
    if !(EXPONENT_MIN..=EXPONENT_MAX).contains(&highest) {
        return None;
    }
    Some(LongDouble {
        mantissa: BigInt::from_biguint(sign, magnitude),
        exponent,
        infinite: false,
    })
}

/// Divides by `2^by`, ties to even.
fn round_shift(n: BigUint, by: u64) -> BigUint {
    let half = BigUint::from(1u32) << (by - 1);
    let quotient = &n >> by;
    let rest = n - (&quotient << by);
    let up = rest > half || (rest == half && quotient.bit(0));
    quotient + u32::from(up)
}

impl fmt::Display for LongDouble {
    /// `%.17Lf` without trailing zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.mantissa.magnitude() * BigUint::from(10u32).pow(PLACES);
        let scaled = if self.exponent >= 0 {
            magnitude << self.exponent.unsigned_abs()
        } else {
            round_shift(magnitude, self.exponent.unsigned_abs())
        };
        let digits = format!(
            "{:0>width$}",
            scaled.to_string(),
            width = PLACES as usize + 1
        );
        let (whole, fraction) = digits.split_at(digits.len() - PLACES as usize);
        let fraction = fraction.trim_end_matches('0');
        if self.mantissa.sign() == Sign::Minus && (whole != "0" || !fraction.is_empty()) {
            f.write_str("-")?;
        }
        f.write_str(whole)?;
        if !fraction.is_empty() {
            write!(f, ".{fraction}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_the_digits_that_a_redis_server_gives() {
        // Taken from redis-server 7.0.15.
        let table = [
            ("0", "10.5", "10.5"),
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "0.000001", "3.000001"),
            ("3.0", "1.1", "4.1"),
            ("1", "-1", "0"),
            ("0", "-0.0", "0"),
            ("-1.5", "0.25", "-1.25"),
            ("0.1", "0.2", "0.3"),
        ];
        for (a, b, sum) in table {
            let parse = |t: &str| LongDouble::parse(t.as_bytes()).unwrap();
            assert_eq!(
                parse(a).add(parse(b)).unwrap().to_string(),
                sum,
                "{a} + {b}"
            );
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "", " 1", "1 ", "abc", "1e", "1.2.3", "--1", "nan", ".", "1e999999", "1e-9999", "0x",
        ] {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text:?}");
        }
        let number = |text: &str| LongDouble::parse(text.as_bytes());
        assert_eq!(number("inf").unwrap().add(LongDouble::ZERO), None);
        assert_eq!(
            number("1e4932").unwrap().add(number("1e4932").unwrap()),
            None
        );
        assert_eq!(number(".5"), number("0.50"));
    }
}
