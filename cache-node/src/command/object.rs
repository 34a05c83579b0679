//! `OBJECT`: how values are held.

use super::introspect::HELP;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::{ItemRef, Kind};

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
    match guard.get(p, args.at(2), context.now_ms) {
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

fn idletime(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    with_item(context, args, |_, _| {
        Err("ERR idle time is not tracked: items carry no time of access".into())
    })
}

fn freq(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    with_item(context, args, |_, _| {
        Err("ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.".into())
    })
}
