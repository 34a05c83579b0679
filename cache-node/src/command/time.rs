//! Expiry times as commands give them.

use super::errors::{NOT_INTEGER, invalid_expire};
use super::{Context, Stop};
use crate::protocol::number::parse_i64;

/// How a command states a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `EX`: seconds from now.
    Seconds,
    /// `PX`: milliseconds from now.
    Milliseconds,
    /// `EXAT`: Unix seconds.
    AtSeconds,
    /// `PXAT`: Unix milliseconds.
    AtMilliseconds,
}

impl Unit {
    pub fn is_relative(self) -> bool {
        matches!(self, Self::Seconds | Self::Milliseconds)
    }

    fn is_seconds(self) -> bool {
        matches!(self, Self::Seconds | Self::AtSeconds)
    }
}

/// The option of a unit (`EX`, …), in whatever case.
pub fn unit_option(word: &[u8]) -> Option<Unit> {
    const UNITS: [(&[u8], Unit); 4] = [
        (b"EX", Unit::Seconds),
        (b"PX", Unit::Milliseconds),
        (b"EXAT", Unit::AtSeconds),
        (b"PXAT", Unit::AtMilliseconds),
    ];
    UNITS
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word))
        .map(|(_, unit)| unit)
}

/// A positive time as `SET` and its kind take it, in Unix milliseconds.
pub fn positive(context: &Context<'_>, text: &[u8], unit: Unit) -> Result<u64, Stop> {
    let value = parse_i64(text).ok_or(NOT_INTEGER)?;
    if value <= 0 {
        return Err(invalid_expire(context.name));
    }
    absolute(value, unit, context.now_ms)
        .and_then(|at| u64::try_from(at).ok())
        .ok_or_else(|| invalid_expire(context.name))
}

/// Any time as `EXPIRE` and its kind take it, in Unix milliseconds, which may be in the past or before 1970.
pub fn any(context: &Context<'_>, text: &[u8], unit: Unit) -> Result<i64, Stop> {
    let value = parse_i64(text).ok_or(NOT_INTEGER)?;
    absolute(value, unit, context.now_ms).ok_or_else(|| invalid_expire(context.name))
}

fn absolute(value: i64, unit: Unit, now_ms: u64) -> Option<i64> {
    let ms = if unit.is_seconds() {
        value.checked_mul(1000)?
    } else {
        value
    };
    if unit.is_relative() {
        ms.checked_add(now_ms as i64)
    } else {
        Some(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_absolute_without_overflow() {
        let table = [
            (10, Unit::Seconds, Some(11_000)),
            (10, Unit::Milliseconds, Some(1_010)),
            (10, Unit::AtSeconds, Some(10_000)),
            (10, Unit::AtMilliseconds, Some(10)),
            (-1, Unit::Seconds, Some(0)),
            (i64::MAX, Unit::Milliseconds, None),
            (i64::MAX / 1000 + 1, Unit::AtSeconds, None),
            (i64::MIN, Unit::Seconds, None),
        ];
        for (value, unit, expected) in table {
            assert_eq!(absolute(value, unit, 1_000), expected, "{value} {unit:?}");
        }
        assert_eq!(unit_option(b"pxAT"), Some(Unit::AtMilliseconds));
        assert_eq!(unit_option(b"PXATX"), None);
    }
}
