//! Lengths of time as users write them: `90s`, `30m`, `1h30m`, `7d`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest that is accepted: ten years.
const DAYS_MAX: u64 = 3660;
const MEND: &str =
    "is not a length of time: write numbers with d, h, m or s, for example 30m, 1h30m or 7d";

/// See the module's text. Kept as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

impl Duration {
    /// Milliseconds, at least a second's. The error says what to write.
    pub fn milliseconds(&self) -> Result<u64, String> {
        let mut seconds = 0u64;
        let mut number = String::new();
        for c in self.0.chars() {
            if c.is_ascii_digit() {
                number.push(c);
                continue;
            }
            let unit = match c {
                'd' => 86_400,
                'h' => 3_600,
                'm' => 60,
                's' => 1,
                _ => return Err(MEND.into()),
            };
            let count: u64 = number.parse().map_err(|_| MEND.to_string())?;
            seconds = count
                .checked_mul(unit)
                .and_then(|part| seconds.checked_add(part))
                .ok_or(MEND)?;
            number.clear();
        }
        if self.0.is_empty() || !number.is_empty() {
            return Err(MEND.into());
        }
        match seconds {
            0 => Err("must be at least 1s".into()),
            seconds if seconds > DAYS_MAX * 86_400 => Err(format!("must be {DAYS_MAX}d at most")),
            seconds => Ok(seconds * 1_000),
        }
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// A rule and not a pattern: its message says the mend.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([0-9]{1,9}[dhms])+$')",
                "messageExpression": format!("\"'\" + self + \"' {MEND}\""),
                "message": MEND,
            }, {
                "rule": "!self.matches('^([0-9]{1,9}[dhms])+$') || !self.matches('^(0+[dhms])+$')",
                "message": "must be at least 1s",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("3660d", 316_224_000_000),
        ] {
            assert_eq!(Duration(text.into()).milliseconds(), Ok(ms), "{text}");
        }
        for text in [
            "",
            "30",
            "m",
            "1.5h",
            "-1h",
            "1 h",
            "PT1H",
            "0s",
            "0d0h",
            "3661d",
            "1ms",
            "99999999999999999999d",
        ] {
            assert!(Duration(text.into()).milliseconds().is_err(), "{text}");
        }
    }
}
