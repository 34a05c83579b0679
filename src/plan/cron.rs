//! When a schedule fires.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A cron expression of five fields in a time zone.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
    zone: TimeZone,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("text", &self.text)
            .field("zone", &self.zone.iana_name())
            .finish()
    }
}

impl Schedule {
    /// `zone` is an IANA name; none is UTC. The error says what is wrong, not where.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Schedule, String> {
        let fields = text.split_whitespace().count();
        if fields != 5 {
            return Err(format!(
                "has {fields} fields: write five, minute hour day-of-month month day-of-week, for example \"0 3 * * *\""
            ));
        }
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(text)
            .map_err(|error| {
                format!("is not a cron expression ({error}): write for example \"0 3 * * *\"")
            })?;
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| {
                format!(
                    "time zone {name:?} is not known: write an IANA name, for example Europe/Berlin"
                )
            })?,
        };
        let schedule = Schedule {
            text: text.to_string(),
            cron,
            zone,
        };
        // A day that never comes, such as 31 February.
        if schedule.next_after_ms(0).is_none() {
            return Err("never fires: choose a day that exists".into());
        }
        Ok(schedule)
    }

    /// The first time after `ms` (milliseconds since 1970) at which it fires.
    pub fn next_after_ms(&self, ms: u64) -> Option<u64> {
        let from = self.zoned(ms)?;
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }

    /// The last time at or before `ms` at which it fired, but not before `since_ms`.
    pub fn last_until_ms(&self, ms: u64, since_ms: u64) -> Option<u64> {
        let until = self.zoned(ms)?;
        let last = self.cron.find_previous_occurrence(&until, true).ok()?;
        let last = u64::try_from(last.timestamp().as_millisecond()).ok()?;
        (last >= since_ms).then_some(last)
    }

    fn zoned(&self, ms: u64) -> Option<jiff::Zoned> {
        let timestamp = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
        // Whole seconds, as cron knows no smaller ones.
        let whole = Timestamp::from_second(timestamp.as_second()).ok()?;
        Some(whole.to_zoned(self.zone.clone()))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({})",
            self.text,
            self.zone.iana_name().unwrap_or("UTC")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    #[test]
    fn fires_in_its_time_zone() {
        let schedule = Schedule::parse("30 3 * * *", Some("Europe/Berlin")).unwrap();
        assert_eq!(
            schedule.next_after_ms(ms("2026-01-10T00:00:00Z")),
            Some(ms("2026-01-10T02:30:00Z"))
        );
        assert_eq!(
            schedule.next_after_ms(ms("2026-07-10T00:00:00Z")),
            Some(ms("2026-07-10T01:30:00Z"))
        );
        assert_eq!(
            schedule.last_until_ms(ms("2026-07-10T01:30:00.500Z"), 0),
            Some(ms("2026-07-10T01:30:00Z"))
        );
        assert_eq!(
            schedule.last_until_ms(ms("2026-07-10T01:29:59Z"), ms("2026-07-10T00:00:00Z")),
            None
        );
    }

    #[test]
    fn hour_that_a_clock_skips_or_repeats() {
        let schedule = Schedule::parse("30 2 * * *", Some("Europe/Berlin")).unwrap();
        // 29 March 2026 has no 02:30; it fires once nevertheless.
        let skipped = schedule.next_after_ms(ms("2026-03-28T12:00:00Z")).unwrap();
        assert!(skipped <= ms("2026-03-29T01:30:00Z") && skipped >= ms("2026-03-29T00:30:00Z"));
        // 25 October 2026 has two; it fires once.
        let first = schedule.next_after_ms(ms("2026-10-24T12:00:00Z")).unwrap();
        assert_eq!(first, ms("2026-10-25T00:30:00Z"));
        assert_eq!(
            schedule.next_after_ms(first),
            Some(ms("2026-10-26T01:30:00Z"))
        );
    }

    #[test]
    fn errors_say_the_mend() {
        let error = |text, zone| Schedule::parse(text, zone).unwrap_err();
        assert!(error("* * * *", None).contains("write five"));
        assert!(error("61 * * * *", None).contains("not a cron expression"));
        assert!(
            error("0 0 31 2 *", None).contains("never fires")
                || error("0 0 31 2 *", None).contains("not a cron")
        );
        assert!(error("0 0 * * *", Some("Mars/Olympus")).contains("Europe/Berlin"));
    }
}
