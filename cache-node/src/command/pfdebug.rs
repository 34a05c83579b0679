//! `PFDEBUG` and `PFSELFTEST`: HyperLogLogs as they are inside, and whether they estimate as well as they should.

use super::hyperloglog::{Registers, find, form, store};
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;

pub const COMMANDS: &[Command] = &[
    Command::new("pfdebug", 3, Group::HyperLogLog, pfdebug)
        .flags(Flags::WRITE.and(Flags::DENYOOM).and(Flags::ADMIN))
        .keys(2, 2, 1)
        .doc(
            "2.8.9",
            "N/A",
            "Internal commands for debugging HyperLogLog values.",
        ),
    Command::new("pfselftest", 1, Group::HyperLogLog, pfselftest)
        .flags(Flags::ADMIN)
        .doc(
            "2.8.9",
            "N/A",
            "An internal command for testing HyperLogLog values.",
        ),
];

/// Elements of the self-test, and how many standard errors its estimates may be off.
const ELEMENTS: u64 = 100_000;
const ERRORS: f64 = 6.0;

fn pfdebug(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (word, key) = (args.at(1), args.at(2));
    let (mut guard, p) = context.write_plain(key)?;
    let now_ms = context.now_ms;
    let found = find(&mut guard, p, key, now_ms)?;
    let (registers, dense) = found.ok_or("ERR The specified key does not exist")?;
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    let becomes_dense = !dense && (is(b"GETREG") || is(b"TODENSE"));
    if becomes_dense {
        let form = form(context.node, true);
        store(&mut guard, p, key, &registers, form, now_ms)?;
    }
    drop(guard);
    let reply = &mut context.reply;
    if is(b"GETREG") {
        reply.array(registers.0.len());
        registers.0.iter().for_each(|&r| reply.integer(r.into()));
    } else if is(b"ENCODING") {
        reply.simple(if dense { "dense" } else { "sparse" });
    } else if is(b"TODENSE") {
        reply.integer(becomes_dense.into());
    } else {
        let word = super::dispatch::shown(word, 128);
        return Err(format!("ERR Unknown PFDEBUG subcommand '{word}'").into());
    }
    Ok(())
}

fn pfselftest(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let mut registers = Registers::default();
    let allowed = ERRORS * 1.04 / (registers.0.len() as f64).sqrt();
    let mut checkpoint = 1;
    for i in 1..=ELEMENTS {
        registers.add(&i.to_le_bytes());
        if i < checkpoint {
            continue;
        }
        checkpoint *= 10;
        let estimate = registers.count();
        // Of few elements a single collision is a large part.
        if estimate.abs_diff(i) as f64 > (allowed * i as f64).max(1.0) {
            return Err(format!("TESTFAILED {i} elements are estimated as {estimate}").into());
        }
        for dense in [false, true] {
            let (read, _) = Registers::read(&registers.write(form(context.node, dense)))?;
            if read.0 != registers.0 {
                return Err(
                    format!("TESTFAILED registers of {i} elements do not come back").into(),
                );
            }
        }
    }
    context.reply.ok();
    Ok(())
}
