//! Expiry: setting, clearing and asking.

use super::table::{Command, Flags, Group};
use super::time::{self, Unit};
use super::{Context, Stop};
use crate::protocol::Args;

const SET: Flags = Flags::WRITE.and(Flags::FAST);
const ASK: Flags = Flags::READONLY.and(Flags::FAST);

pub const COMMANDS: &[Command] = &[
    Command::new("expire", -3, Group::Generic, |c, a| {
        expire(c, a, Unit::Seconds)
    })
    .flags(SET)
    .keys(1, 1, 1)
    .doc(
        "1.0.0",
        "O(1)",
        "Sets the expiration time of a key in seconds.",
    ),
    Command::new("pexpire", -3, Group::Generic, |c, a| {
        expire(c, a, Unit::Milliseconds)
    })
    .flags(SET)
    .keys(1, 1, 1)
    .doc(
        "2.6.0",
        "O(1)",
        "Sets the expiration time of a key in milliseconds.",
    ),
    Command::new("expireat", -3, Group::Generic, |c, a| {
        expire(c, a, Unit::AtSeconds)
    })
    .flags(SET)
    .keys(1, 1, 1)
    .doc(
        "1.2.0",
        "O(1)",
        "Sets the expiration time of a key to a Unix timestamp.",
    ),
    Command::new("pexpireat", -3, Group::Generic, |c, a| {
        expire(c, a, Unit::AtMilliseconds)
    })
    .flags(SET)
    .keys(1, 1, 1)
    .doc(
        "2.6.0",
        "O(1)",
        "Sets the expiration time of a key to a Unix milliseconds timestamp.",
    ),
    Command::new("persist", 2, Group::Generic, persist)
        .flags(SET)
        .keys(1, 1, 1)
        .doc("2.2.0", "O(1)", "Removes the expiration time of a key."),
    Command::new("ttl", 2, Group::Generic, |c, a| ask(c, a, true, true))
        .flags(ASK)
        .keys(1, 1, 1)
        .doc(
            "1.0.0",
            "O(1)",
            "Returns the expiration time in seconds of a key.",
        ),
    Command::new("pttl", 2, Group::Generic, |c, a| ask(c, a, true, false))
        .flags(ASK)
        .keys(1, 1, 1)
        .doc(
            "2.6.0",
            "O(1)",
            "Returns the expiration time in milliseconds of a key.",
        ),
    Command::new("expiretime", 2, Group::Generic, |c, a| {
        ask(c, a, false, true)
    })
    .flags(ASK)
    .keys(1, 1, 1)
    .doc(
        "7.0.0",
        "O(1)",
        "Returns the expiration time of a key as a Unix timestamp.",
    ),
    Command::new("pexpiretime", 2, Group::Generic, |c, a| {
        ask(c, a, false, false)
    })
    .flags(ASK)
    .keys(1, 1, 1)
    .doc(
        "7.0.0",
        "O(1)",
        "Returns the expiration time of a key as a Unix milliseconds timestamp.",
    ),
];

/// On which present expiry a new one is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Conditions {
    absent: bool,
    present: bool,
    greater: bool,
    less: bool,
}

impl Conditions {
    fn read(args: Args<'_>) -> Result<Self, Stop> {
        let mut conditions = Self::default();
        for word in args.from(3).iter() {
            let flag = match word.to_ascii_uppercase().as_slice() {
                b"NX" => &mut conditions.absent,
                b"XX" => &mut conditions.present,
                b"GT" => &mut conditions.greater,
                b"LT" => &mut conditions.less,
                _ => {
                    return Err(format!(
                        "ERR Unsupported option {}",
                        super::dispatch::shown(word, 128)
                    )
                    .into());
                }
            };
            *flag = true;
        }
        if conditions.absent && (conditions.present || conditions.greater || conditions.less) {
            return Err(
                "ERR NX and XX, GT or LT options at the same time are not compatible".into(),
            );
        }
        if conditions.greater && conditions.less {
            return Err("ERR GT and LT options at the same time are not compatible".into());
        }
        Ok(conditions)
    }

    /// No present expiry counts as an endless one.
    fn allow(self, present: Option<u64>, wanted: i64) -> bool {
        let present = present.map(|at| at as i64);
        !(self.absent && present.is_some()
            || self.present && present.is_none()
            || self.greater && present.is_none_or(|at| wanted <= at)
            || self.less && present.is_some_and(|at| wanted >= at))
    }
}

fn expire(context: &mut Context<'_>, args: Args<'_>, unit: Unit) -> Result<(), Stop> {
    let conditions = Conditions::read(args)?;
    let at = time::any(context, args.at(2), unit)?;
    let (key, now_ms) = (args.at(1), context.now_ms);
    let (mut guard, p) = context.write(key)?;
    let allowed = guard
        .get(p, key, now_ms)
        .is_some_and(|item| conditions.allow(item.expires_at(), at));
    if allowed {
        if at <= now_ms as i64 {
            guard.remove(p, key, now_ms);
        } else {
            guard.set_expiry(p, key, Some(at as u64), now_ms)?;
        }
    }
    context.reply.integer(i64::from(allowed));
    Ok(())
}

fn persist(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (key, now_ms) = (args.at(1), context.now_ms);
    let (mut guard, p) = context.write(key)?;
    let expires = guard
        .get(p, key, now_ms)
        .is_some_and(|item| item.expires_at().is_some());
    if expires {
        guard.set_expiry(p, key, None, now_ms)?;
    }
    context.reply.integer(i64::from(expires));
    Ok(())
}

fn ask(
    context: &mut Context<'_>,
    args: Args<'_>,
    relative: bool,
    seconds: bool,
) -> Result<(), Stop> {
    let key = args.at(1);
    let (mut guard, p) = context.read(key)?;
    let answer = match guard
        .look(p, key, context.now_ms)
        .map(|item| item.expires_at())
    {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => {
            let ms = if relative {
                at.saturating_sub(context.now_ms)
            } else {
                at
            };
            (if seconds {
                ms.saturating_add(500) / 1000
            } else {
                ms
            }) as i64
        }
    };
    context.reply.integer(answer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_with_the_present_expiry() {
        let none = Conditions::default();
        let nx = Conditions {
            absent: true,
            ..none
        };
        let xx = Conditions {
            present: true,
            ..none
        };
        let gt = Conditions {
            greater: true,
            ..none
        };
        let lt = Conditions { less: true, ..none };
        let xx_gt = Conditions {
            present: true,
            greater: true,
            ..none
        };
        let table = [
            (none, None, true, true, true),
            (nx, None, true, true, true),
            (nx, Some(10), false, false, false),
            (xx, None, false, false, false),
            (xx, Some(10), true, true, true),
            (gt, None, false, false, false),
            (gt, Some(10), false, false, true),
            (lt, None, true, true, true),
            (lt, Some(10), true, false, false),
            (xx_gt, None, false, false, false),
            (xx_gt, Some(10), false, false, true),
        ];
        for (conditions, present, before, same, after) in table {
            let allowed = [9, 10, 11].map(|wanted| conditions.allow(present, wanted));
            assert_eq!(allowed, [before, same, after], "{conditions:?} {present:?}");
        }
    }
}
