//! `DEBUG`: what test suites ask of a server. Refused unless `--enable-debug-command`: it can stop a thread and keep what has expired.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sha1::{Digest as _, Sha1};

use super::dump;
use super::errors::{NOT_INTEGER, SYNTAX};
use super::object::encoding_of;
use super::scan::walk_from;
use super::table::{Command, Flags, Group};
use super::{Context, Stop, glob};
use crate::config::DebugAccess;
use crate::limits::{DEBUG_SLEEP_MAX, DEBUG_TEXT_MAX, SCAN_SECTION};
use crate::protocol::Args;
use crate::protocol::double;
use crate::protocol::number::parse_i64;
use crate::store::collections::Element;
use crate::store::{ItemRef, Kind};

/// A subcommand: its name, its arguments with both names (negative: at least so many), what it is for, and what it does. They are no entries
/// of the table, as in Redis.
type Subcommand = (&'static str, i16, &'static str, super::Handler);

const SUBCOMMANDS: [Subcommand; 10] = [
    ("DIGEST", 2, "A digest of all keys and values.", digest),
    (
        "DIGEST-VALUE",
        -2,
        "A digest of each key's value.",
        digest_value,
    ),
    ("LOG", 3, "Writes a line to the server's log.", log),
    ("OBJECT", 3, "How a key's value is held.", object),
    (
        "PROTOCOL",
        3,
        "A reply of each type of the protocol.",
        protocol,
    ),
    (
        "RELOAD",
        2,
        "Serializes each key and makes it again from that.",
        reload,
    ),
    (
        "SET-ACTIVE-EXPIRE",
        3,
        "0: expired keys stay that nobody asks for; 1: they are removed.",
        set_active_expire,
    ),
    (
        "SET-DISABLE-DENY-SCRIPTS",
        3,
        "1: scripts may execute what administers; 0: they may not.",
        set_disable_deny_scripts,
    ),
    ("SLEEP", 3, "Stops this connection's thread so long.", sleep),
    (
        "STRINGMATCH-LEN",
        4,
        "Matches a text of so many bytes with a pattern.",
        stringmatch,
    ),
];

pub const COMMANDS: &[Command] = &[Command::new("debug", -2, Group::Server, debug)
    .flags(
        Flags::ADMIN
            .and(Flags::NOSCRIPT)
            .and(Flags::LOADING)
            .and(Flags::STALE)
            .and(Flags::WHOLE),
    )
    .doc(
        "1.0.0",
        "Depends on subcommand.",
        "A container for debugging commands.",
    )];

fn debug(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let is_local = || {
        context
            .session
            .client
            .address
            .ip()
            .to_canonical()
            .is_loopback()
    };
    let allowed = match context.node.config.enable_debug_command {
        DebugAccess::No => false,
        DebugAccess::Local => is_local(),
        DebugAccess::Yes => true,
    };
    if !allowed {
        return Err("ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.".into());
    }
    let name = super::dispatch::shown(args.at(1), 128);
    if name.eq_ignore_ascii_case("HELP") && args.len() == 2 {
        return help(context);
    }
    let found = SUBCOMMANDS.iter().find(|(known, arity, ..)| {
        let wanted = usize::from(arity.unsigned_abs());
        let takes = args.len() == wanted || (*arity < 0 && args.len() > wanted);
        takes && known.eq_ignore_ascii_case(&name)
    });
    match found {
        Some((.., run)) => run(context, args),
        None => Err(format!(
            "ERR unknown subcommand or wrong number of arguments for '{name}'. Try DEBUG HELP."
        )
        .into()),
    }
}

fn help(context: &mut Context<'_>) -> Result<(), Stop> {
    let reply = &mut context.reply;
    reply.array(1 + SUBCOMMANDS.len() * 2);
    reply.simple("DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    for (name, _, summary, _) in SUBCOMMANDS {
        reply.simple(name);
        reply.simple(&format!("    {summary}"));
    }
    Ok(())
}

/// An order-free digest, in the steps that Redis takes, so that both answer the same for the same data.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum([u8; 20]);

impl Sum {
    fn xor(&mut self, bytes: &[u8]) {
        let hash: [u8; 20] = Sha1::digest(bytes).into();
        self.0.iter_mut().zip(hash).for_each(|(a, b)| *a ^= b);
    }

    /// Unlike [`Sum::xor`], in an order that counts.
    fn mix(&mut self, bytes: &[u8]) {
        self.xor(bytes);
        self.0 = Sha1::digest(self.0).into();
    }

    fn of(parts: [&[u8]; 2]) -> Self {
        let mut sum = Self::default();
        parts.iter().for_each(|part| sum.mix(part));
        sum
    }

    fn add_value(&mut self, item: &ItemRef<'_>) {
        let kind = item.kind();
        let number: u32 = match kind {
            Kind::String => 0,
            Kind::List => 1,
            Kind::Set => 2,
            Kind::ZSet => 3,
            Kind::Hash => 4,
        };
        self.mix(&number.to_be_bytes());
        if kind == Kind::String {
            self.mix(&item.value().bytes());
        } else {
            for element in item.view().elements(kind, 0) {
                match element {
                    Element::One(one) if kind == Kind::List => self.mix(&one),
                    Element::One(one) => self.xor(&one),
                    Element::Pair(field, value) => self.xor(&Self::of([field, value]).0),
                    Element::Scored(member, score) => {
                        self.xor(&Self::of([member, general(score).as_bytes()]).0);
                    }
                }
            }
        }
        if item.expires_at().is_some() {
            self.xor(b"!!expire!!");
        }
    }

    fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// As C prints by `%.17g`.
fn general(value: f64) -> String {
    if !value.is_finite() {
        return double::format(value);
    }
    let text = format!("{value:.16e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let cut = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..17).contains(&exponent) {
        return cut(&format!("{value:.*}", (16 - exponent) as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", cut(mantissa), exponent.unsigned_abs())
}

fn digest(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let mut all = Sum::default();
    let mut keys = 0u64;
    let mut cursor = 0;
    loop {
        cursor = walk_from(context, cursor, SCAN_SECTION, &mut |item| {
            let mut sum = Sum::default();
            sum.mix(item.key());
            sum.add_value(&item);
            all.xor(&sum.0);
            keys += 1;
        })?;
        if cursor == 0 {
            break;
        }
    }
    if keys > 0 {
        // The number of the database, which Redis mixes in before its keys.
        let mut database = Sum::default();
        database.mix(&0u32.to_be_bytes());
        all.0.iter_mut().zip(database.0).for_each(|(a, b)| *a ^= b);
    }
    context.reply.simple(&all.hex());
    Ok(())
}

fn digest_value(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let mut sums = Vec::with_capacity(args.len() - 2);
    for key in args.from(2).iter() {
        let mut sum = Sum::default();
        let (mut guard, p) = context.read(key)?;
        if let Some(item) = guard.get(p, key, context.now_ms) {
            sum.add_value(&item);
        }
        sums.push(sum.hex());
    }
    context.reply.array(sums.len());
    sums.iter().for_each(|sum| context.reply.simple(sum));
    Ok(())
}

fn log(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    tracing::warn!(text = %super::dispatch::shown(args.at(2), 1024), "DEBUG LOG");
    context.reply.ok();
    Ok(())
}

fn object(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (guard, p) = context.read(args.at(2))?;
    // As it is held: also when it has expired, and nobody has removed it yet.
    let item = guard.peek(p, args.at(2), 0).ok_or("ERR no such key")?;
    let text = format!(
        "Value refcount:1 encoding:{} serializedlength:{} bytes:{}",
        encoding_of(item),
        dump::serialized(&item).finish().len() - 1,
        item.bytes(),
    );
    context.reply.simple(&text);
    Ok(())
}

// What Redis answers is not meant for pi.
#[allow(clippy::approx_constant)]
fn protocol(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    const BIG: &[u8] = b"1234567999999999999999999999999999999";
    let reply = &mut context.reply;
    let name = args.at(2).to_ascii_lowercase();
    match &name[..] {
        b"string" => reply.text("Hello World"),
        b"integer" => reply.integer(12345),
        b"double" => reply.double(3.141),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|i| reply.integer(i));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|i| reply.integer(i));
        }
        b"map" => {
            reply.map(3);
            for i in 0..3 {
                reply.integer(i);
                reply.boolean(i == 1);
            }
        }
        b"attrib" => {
            if reply.resp3 {
                reply.out.push(b"|1\r\n");
                reply.text("key-popularity");
                reply.array(2);
                reply.text("key:123");
                reply.integer(90);
            }
            reply.text("Some real reply following the attribute");
        }
        b"push" => {
            reply.push(2);
            reply.text("server-cpu-usage");
            reply.integer(42);
        }
        b"verbatim" => reply.verbatim("This is a verbatim\nstring"),
        b"bignum" if reply.resp3 => {
            reply.out.push(b"(");
            reply.out.push(BIG);
            reply.out.push(b"\r\n");
        }
        b"bignum" => reply.bulk(BIG),
        b"true" => reply.boolean(true),
        b"false" => reply.boolean(false),
        _ => return Err("ERR Wrong protocol type name. Please use one of the following: string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false".into()),
    }
    Ok(())
}

/// A node has no file to be read again: each value goes through the bytes that would be in it.
fn reload(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut cursor = 0;
    loop {
        cursor = walk_from(context, cursor, SCAN_SECTION, &mut |item| {
            keys.push(item.key().to_vec());
        })?;
        if cursor == 0 {
            break;
        }
    }
    for key in keys {
        let (mut guard, p) = context.write(&key)?;
        dump::rebuild(&mut guard, p, &key, context.now_ms)?;
    }
    context.reply.ok();
    Ok(())
}

fn on_off(word: &[u8]) -> Result<bool, Stop> {
    match parse_i64(word).ok_or(NOT_INTEGER)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(SYNTAX.into()),
    }
}

fn set_active_expire(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let on = on_off(args.at(2))?;
    context.node.store.set_sweeps(on);
    context.reply.ok();
    Ok(())
}

fn set_disable_deny_scripts(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let on = on_off(args.at(2))?;
    let allows_all = &context.node.scripting.allows_all;
    allows_all.store(on, Ordering::Relaxed);
    context.reply.ok();
    Ok(())
}

fn stringmatch(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let length = parse_i64(args.at(2)).and_then(|n| usize::try_from(n).ok());
    let length = length.filter(|&n| n <= DEBUG_TEXT_MAX).ok_or(NOT_INTEGER)?;
    std::hint::black_box(glob::matches(args.at(3), &vec![b'x'; length], false));
    context.reply.ok();
    Ok(())
}

/// `DEBUG SLEEP`: holds the thread that executes it, as it was asked to.
fn sleep(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let seconds = double::parse(args.at(2)).ok_or(super::errors::NOT_FLOAT)?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| SYNTAX)?;
    std::thread::sleep(time.min(DEBUG_SLEEP_MAX));
    context.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_c_prints_them() {
        let table = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-12.5, "-12.5"),
            (0.1, "0.10000000000000001"),
            (3.3, "3.2999999999999998"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.5e300, "1.5000000000000001e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, text) in table {
            assert_eq!(general(value), text);
        }
    }
}
