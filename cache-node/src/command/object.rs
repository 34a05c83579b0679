//! `OBJECT`: how values are held.

use super::introspect::HELP;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::{ItemRef, Kind, Usage};

pub const COMMANDS: &[Command] = &[Command::new("object", -2, Group::Generic, container)
    .doc(
        "2.2.3",
        "Depends on subcommand.",
        "A container for object introspection commands.",
    )
    .with(&[
        Command::new("encoding", 3, Group::Generic, encoding)
            .flags(Flags::READONLY)
            .keys(2, 2, 1)
            .doc(
                "2.2.3",
                "O(1)",
                "Inspect the internal encoding of a Redis object.",
            ),
        Command::new("refcount", 3, Group::Generic, refcount)
            .flags(Flags::READONLY)
            .keys(2, 2, 1)
            .doc(
                "2.2.3",
                "O(1)",
                "Get the number of references to the value of the key.",
            ),
        Command::new("idletime", 3, Group::Generic, idletime)
            .flags(Flags::READONLY)
            .keys(2, 2, 1)
            .doc(
                "2.2.3",
                "O(1)",
                "Get the time since a Redis object was last accessed.",
            ),
        Command::new("freq", 3, Group::Generic, freq)
            .flags(Flags::READONLY)
            .keys(2, 2, 1)
            .doc(
                "4.0.0",
                "O(1)",
                "Get the logarithmic access frequency counter of a Redis object.",
            ),
        HELP,
    ])];

fn container(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err(super::errors::wrong_arity(context.name))
}

fn with_item(
    context: &mut Context<'_>,
    args: Args<'_>,
    f: impl FnOnce(&mut Context<'_>, ItemRef<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let (mut guard, p) = context.read(args.at(2))?;
    match guard.look(p, args.at(2), context.now_ms) {
        None => {
            context.reply.null();
            Ok(())
        }
        Some(item) => f(context, item),
    }
}

fn encoding(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    with_item(context, args, |context, item| {
        context.reply.text(encoding_of(item));
        Ok(())
    })
}

/// The name of a value's encoding.
pub fn encoding_of(item: ItemRef<'_>) -> &'static str {
    match item.kind() {
        Kind::String => match item.value_len() {
            0..=20 if parse_i64(&item.value().bytes()).is_some() => "int",
            0..=44 => "embstr",
            _ => "raw",
        },
        kind => item.view().encoding(kind),
    }
}

fn refcount(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    with_item(context, args, |context, _| {
        // One item has one reference.
        context.reply.integer(1);
        Ok(())
    })
}

const LFU_SELECTED: &str = "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.";
const NO_LRU: &str = "ERR An LRU maxmemory policy is not selected, idle time not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.";
const NO_LFU: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.";
const NOT_YET: &str =
    "ERR The key was written before the maxmemory policy was selected, its use is not known.";
/// Redis's counter of accesses ends here.
pub const FREQ_MAX: u32 = 255;

fn usage(context: &mut Context<'_>, args: Args<'_>) -> Result<Option<Usage>, Stop> {
    let key = args.at(2);
    let (mut guard, p) = context.read(key)?;
    if guard.look(p, key, context.now_ms).is_none() {
        return Ok(None);
    }
    Ok(guard.usage(p, key, context.now_ms))
}

fn idletime(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    match usage(context, args)? {
        None => context.reply.null(),
        Some(Usage::IdleMs(ms)) => context.reply.unsigned(ms / 1000),
        Some(Usage::Reads(_)) => return Err(LFU_SELECTED.into()),
        Some(Usage::NotYet) => return Err(NOT_YET.into()),
        Some(Usage::NotKept) => return Err(NO_LRU.into()),
    }
    Ok(())
}

fn freq(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    match usage(context, args)? {
        None => context.reply.null(),
        Some(Usage::Reads(reads)) => context.reply.unsigned(reads.min(FREQ_MAX).into()),
        Some(Usage::NotYet) => return Err(NOT_YET.into()),
        Some(Usage::IdleMs(_) | Usage::NotKept) => return Err(NO_LFU.into()),
    }
    Ok(())
}
