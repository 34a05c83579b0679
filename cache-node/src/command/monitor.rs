//! `MONITOR`: a line about each command that is executed, to whoever asks.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::table::{Command, Entry, Flags, Group};
use super::{Context, Session, Stop};
use crate::node::{Node, extra, now_us};
use crate::protocol::Args;
use crate::server::mail::Mail;
use crate::server::registry::{Client, flag};

pub const COMMANDS: &[Command] = &[Command::new("monitor", 1, Group::Server, monitor)
    .flags(
        Flags::ADMIN
            .and(Flags::NOSCRIPT)
            .and(Flags::LOADING)
            .and(Flags::STALE),
    )
    .doc(
        "1.0.0",
        "O(1)",
        "Listens for all requests received by the server in real-time.",
    )];

/// Who listens.
#[derive(Debug, Default)]
pub struct Monitors {
    clients: RwLock<Vec<Arc<Client>>>,
    count: AtomicUsize,
}

impl Monitors {
    fn change(&self, node: &Node, f: impl FnOnce(&mut Vec<Arc<Client>>)) {
        let mut clients = self.clients.write();
        f(&mut clients);
        self.count.store(clients.len(), Ordering::Relaxed);
        node.set_extra(extra::MONITOR, !clients.is_empty());
    }

    /// A connection listens no more.
    pub fn remove(&self, node: &Node, client: &Client) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.change(node, |clients| clients.retain(|c| c.id != client.id));
        }
    }
}

fn monitor(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    if context.held.is_some() {
        return Err("ERR MONITOR isn't allowed for DENY BLOCKING client".into());
    }
    let client = context.session.client.clone();
    if !client.has(flag::MONITOR) {
        client.set(flag::MONITOR, true);
        let monitors = &context.node.monitors;
        monitors.change(context.node, |clients| clients.push(client));
    }
    context.reply.ok();
    Ok(())
}

/// An argument in quotes, as Redis prints it.
pub fn quoted(to: &mut String, bytes: &[u8]) {
    to.push('"');
    for &b in bytes {
        match b {
            b'\\' | b'"' => {
                to.push('\\');
                to.push(char::from(b));
            }
            b'\n' => to.push_str("\\n"),
            b'\r' => to.push_str("\\r"),
            b'\t' => to.push_str("\\t"),
            7 => to.push_str("\\a"),
            8 => to.push_str("\\b"),
            b' '..=b'~' => to.push(char::from(b)),
            b => {
                // Writing to a String cannot fail.
                let _ = write!(to, "\\x{b:02x}");
            }
        }
    }
    to.push('"');
}

/// Tells those who listen of a command. Commands that administer are not told, nor passwords.
#[cold]
pub fn feed(node: &Node, session: &Session, entry: &Entry, args: Args<'_>, in_script: bool) {
    let flags = entry.command.flags;
    if flags.has(Flags::ADMIN) || flags.has(Flags::SKIP_MONITOR) {
        return;
    }
    let secret = match entry.full_name.as_str() {
        "auth" => 1,
        // Its options may hold one.
        "hello" => 2,
        _ => usize::MAX,
    };
    tell(node, session, args, secret, in_script);
}

/// Tells those who listen of a script, whose commands follow.
#[cold]
pub fn feed_script(node: &Node, session: &Session, args: Args<'_>) {
    tell(node, session, args, usize::MAX, false);
}

/// A line, without the arguments from `secret` on.
fn tell(node: &Node, session: &Session, args: Args<'_>, secret: usize, in_script: bool) {
    let now = now_us();
    let mut line = format!("+{}.{:06} [0 ", now / 1_000_000, now % 1_000_000);
    match in_script {
        true => line.push_str("lua"),
        false => {
            // Writing to a String cannot fail.
            let _ = write!(line, "{}", session.client.address);
        }
    }
    line.push(']');
    for (i, arg) in args.iter().enumerate() {
        line.push(' ');
        match i < secret {
            true => quoted(&mut line, arg),
            false => line.push_str("\"(redacted)\""),
        }
    }
    line.push_str("\r\n");
    let mail = Mail::Plain(line.into_bytes().into());
    for client in node.monitors.clients.read().iter() {
        client.mail.put(mail.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_printed_as_redis_prints_them() {
        let mut text = String::new();
        quoted(&mut text, b"a\"\\\n\r\t\x07\x08\x00\xff z");
        assert_eq!(text, r#""a\"\\\n\r\t\a\b\x00\xff z""#);
    }
}
