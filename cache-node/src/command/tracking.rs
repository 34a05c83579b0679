//! `CLIENT TRACKING`: a client is told when keys that it has read change, so that it may keep copies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::errors::{NOT_INTEGER, SYNTAX};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::pubsub::push_body;
use crate::server::mail::Mail;
use crate::server::registry::{Client, flag};
use crate::store::{Listener, Store, Tracker, observer};

/// How long a connection that ends tries to lock everything.
const PATIENCE: Duration = Duration::from_millis(50);

/// Which reads are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    All,
    /// Those after `CLIENT CACHING YES`.
    OptIn,
    /// All but those after `CLIENT CACHING NO`.
    OptOut,
    /// None: keys by their prefixes.
    Broadcast,
}

/// A connection's tracking; dropped, it tracks nothing.
#[derive(Debug)]
pub struct TrackingState {
    store: Option<Arc<Store>>,
    tracker: Arc<Tracker>,
    mode: Mode,
    /// What `CLIENT CACHING` said of the next command.
    caching: Option<bool>,
    /// 0: to itself.
    redirect: u64,
    broken: Arc<AtomicBool>,
    noloop: bool,
    prefixes: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl TrackingState {
    /// Who is to be told of a key that is read now.
    pub fn reader(&self) -> Option<&Arc<Tracker>> {
        let tracked = match self.mode {
            Mode::All => true,
            Mode::OptIn => self.caching == Some(true),
            Mode::OptOut => self.caching != Some(false),
            Mode::Broadcast => false,
        };
        tracked.then_some(&self.tracker)
    }

    /// The client that is told; 0: itself.
    pub fn redirect(&self) -> u64 {
        self.redirect
    }

    /// A command is over: `CLIENT CACHING` was about it alone.
    pub fn command_over(&mut self) {
        self.caching = None;
    }

    fn end(&mut self) {
        if let Some(store) = self.store.take() {
            store.tracking.end(&self.tracker);
        }
    }
}

impl Drop for TrackingState {
    fn drop(&mut self) {
        let Some(store) = self.store.take() else {
            return;
        };
        store.tracking.end(&self.tracker);
        if self.mode == Mode::Broadcast {
            // While a script holds everything this thread is to go on: changes are looked at for nobody until somebody tracks again.
            let until = Instant::now() + PATIENCE;
            if let Some(mut guard) = store.lock_all_while(|| Instant::now() < until) {
                guard.observe_all(observer::PREFIXES, store.tracking.has_prefixes());
            }
        }
    }
}

/// Tells a client, or the one that it has named.
#[derive(Debug)]
struct Told {
    client: Arc<Client>,
    redirect: Option<Arc<Client>>,
    broken: Arc<AtomicBool>,
}

/// What is told in RESP3, and in RESP2 on a channel, behind its first byte. None: all keys have changed.
pub fn invalidation(keys: Option<&[&[u8]]>, resp3: bool) -> Bytes {
    let mut body = match resp3 {
        true => b"2\r\n$10\r\ninvalidate\r\n".to_vec(),
        false => b"3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n".to_vec(),
    };
    match keys {
        Some(keys) => {
            body.push(b'*');
            body.extend_from_slice(&push_body(keys));
        }
        None if resp3 => body.extend_from_slice(b"_\r\n"),
        None => body.extend_from_slice(b"$-1\r\n"),
    }
    body.into()
}

impl Listener for Told {
    fn invalidated(&self, key: Option<&[u8]>, prefix: Option<&Arc<[u8]>>) {
        let target = match &self.redirect {
            Some(target) if target.gone.load(Ordering::Relaxed) => {
                if !self.broken.swap(true, Ordering::Relaxed) && self.client.has(flag::RESP3) {
                    let id = target.id;
                    let body = format!("2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n");
                    self.client.mail.put(Mail::Push(body.into()));
                }
                return;
            }
            Some(target) => target,
            None => &self.client,
        };
        let resp3 = target.has(flag::RESP3);
        let subscribed = target
            .subscriptions
            .iter()
            .any(|n| n.load(Ordering::Relaxed) > 0);
        if resp3 || (self.redirect.is_some() && subscribed) {
            match (key, prefix) {
                // Those of one command, or transaction, go together.
                (Some(key), Some(prefix)) => target.mail.put_key(self.client.id, prefix, key),
                (key, _) => {
                    let keys = key.as_ref().map(std::slice::from_ref);
                    target.mail.put(Mail::Push(invalidation(keys, resp3)));
                }
            }
        }
    }
}

/// What `CLIENT TRACKING ON` asks for.
#[derive(Debug, Default)]
struct Wanted {
    redirect: Option<Arc<Client>>,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    noloop: bool,
    prefixes: Vec<Vec<u8>>,
}

impl Wanted {
    fn read(context: &Context<'_>, args: Args<'_>) -> Result<Self, Stop> {
        let mut wanted = Self::default();
        let mut i = 3;
        while let Some(word) = args.get(i) {
            match (word.to_ascii_uppercase().as_slice(), args.get(i + 1)) {
                (b"REDIRECT", Some(id)) => {
                    i += 1;
                    if wanted.redirect.is_some() {
                        return Err(
                            "ERR A client can only redirect to a single other client".into()
                        );
                    }
                    let id = parse_i64(id).ok_or(NOT_INTEGER)?;
                    let client = u64::try_from(id)
                        .ok()
                        .and_then(|id| context.node.clients.get(id));
                    wanted.redirect = Some(
                        client.ok_or("ERR The client ID you want redirect to does not exist")?,
                    );
                }
                (b"BCAST", _) => wanted.broadcast = true,
                (b"OPTIN", _) => wanted.opt_in = true,
                (b"OPTOUT", _) => wanted.opt_out = true,
                (b"NOLOOP", _) => wanted.noloop = true,
                (b"PREFIX", Some(prefix)) => {
                    i += 1;
                    wanted.prefixes.push(prefix.to_vec());
                }
                _ => return Err(SYNTAX.into()),
            }
            i += 1;
        }
        Ok(wanted)
    }

    fn mode(&self) -> Mode {
        match (self.broadcast, self.opt_in, self.opt_out) {
            (true, ..) => Mode::Broadcast,
            (_, true, _) => Mode::OptIn,
            (_, _, true) => Mode::OptOut,
            _ => Mode::All,
        }
    }

    fn check(&self, now: Option<&TrackingState>) -> Result<(), Stop> {
        if !self.broadcast && !self.prefixes.is_empty() {
            return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
        }
        if now.is_some_and(|now| (now.mode == Mode::Broadcast) != self.broadcast) {
            return Err("ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.".into());
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
        }
        if self.opt_in && self.opt_out {
            return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
        }
        let switches = |now: &TrackingState| {
            (self.opt_in && now.mode == Mode::OptOut) || (self.opt_out && now.mode == Mode::OptIn)
        };
        if now.is_some_and(switches) {
            return Err("ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.".into());
        }
        let none = Vec::new();
        let present = now.map_or(&none, |now| &now.prefixes);
        for (i, prefix) in self.prefixes.iter().enumerate() {
            let overlaps =
                |other: &&Vec<u8>| prefix.starts_with(other) || other.starts_with(prefix);
            let existing = present.iter().find(overlaps).map(|p| (p, "an existing"));
            let given = self.prefixes[i + 1..].iter().find(overlaps);
            let found = existing.or(given.map(|p| (p, "another provided")));
            if let Some((other, which)) = found {
                let [prefix, other] = [prefix, other].map(|p| String::from_utf8_lossy(p));
                return Err(format!("ERR Prefix '{prefix}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap.").into());
            }
        }
        Ok(())
    }
}

/// `CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX p …] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`
pub fn tracking(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let on = match args.at(2).to_ascii_uppercase().as_slice() {
        b"ON" => true,
        b"OFF" => false,
        _ => return Err(SYNTAX.into()),
    };
    let wanted = Wanted::read(context, args)?;
    if on {
        wanted.check(context.session.tracking.as_deref())?;
    }
    let before = context.session.tracking.as_ref();
    let is_broadcast = wanted.broadcast || before.is_some_and(|t| t.mode == Mode::Broadcast);
    // All domains are to know whether somebody tracks by prefixes.
    let guard = is_broadcast.then(|| context.lock_all()).transpose()?;
    let mut before = context.session.tracking.take();
    let mut prefixes = Vec::new();
    if let Some(before) = &mut before {
        before.end();
        prefixes = std::mem::take(&mut before.prefixes);
    }
    if on {
        begin(context, wanted, prefixes);
    }
    if let Some(mut guard) = guard {
        let some = context.node.store.tracking.has_prefixes();
        guard.observe_all(observer::PREFIXES, some);
    }
    context.reply.ok();
    Ok(())
}

fn begin(context: &mut Context<'_>, wanted: Wanted, mut prefixes: Vec<Vec<u8>>) {
    let store = &context.node.store;
    let client = context.session.client.clone();
    let mode = wanted.mode();
    prefixes.extend(wanted.prefixes);
    prefixes.sort();
    prefixes.dedup();
    if mode == Mode::Broadcast && prefixes.is_empty() {
        prefixes.push(Vec::new());
    }
    let broken = Arc::new(AtomicBool::new(false));
    let redirect = wanted.redirect.as_ref().map_or(0, |c| c.id);
    let told = Told {
        client: client.clone(),
        redirect: wanted.redirect,
        broken: broken.clone(),
    };
    let tracker = Tracker::new(client.id, wanted.noloop, Box::new(told));
    store.tracking.begin(&tracker, &prefixes);
    context.session.tracking = Some(Box::new(TrackingState {
        store: Some(store.clone()),
        tracker,
        mode,
        caching: None,
        redirect,
        broken,
        noloop: wanted.noloop,
        prefixes,
    }));
}

/// `CLIENT CACHING YES|NO`
pub fn caching(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let tracking = context.session.tracking.as_deref_mut();
    let tracking = tracking.filter(|t| matches!(t.mode, Mode::OptIn | Mode::OptOut));
    let Some(tracking) = tracking else {
        return Err("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled".into());
    };
    tracking.caching =
        Some(
            match (args.at(2).to_ascii_uppercase().as_slice(), tracking.mode) {
                (b"YES", Mode::OptIn) => true,
                (b"NO", Mode::OptOut) => false,
                (b"YES", _) => return Err(
                    "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
                        .into(),
                ),
                (b"NO", _) => return Err(
                    "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
                        .into(),
                ),
                _ => return Err(SYNTAX.into()),
            },
        );
    context.reply.ok();
    Ok(())
}

pub fn getredir(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let tracking = &context.session.tracking;
    let redirect = tracking.as_ref().map_or(-1, |t| t.redirect as i64);
    context.reply.integer(redirect);
    Ok(())
}

pub fn trackinginfo(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let mut flags = Vec::new();
    let tracking = context.session.tracking.as_deref();
    match tracking {
        None => flags.push("off"),
        Some(tracking) => {
            let yes_no = |yes, no| match tracking.caching {
                Some(true) => yes,
                Some(false) => no,
                None => "",
            };
            let mode: &[&str] = match tracking.mode {
                Mode::All => &[],
                Mode::OptIn => &["optin", yes_no("caching-yes", "")],
                Mode::OptOut => &["optout", yes_no("", "caching-no")],
                Mode::Broadcast => &["bcast"],
            };
            flags.push("on");
            flags.extend(mode.iter().filter(|f| !f.is_empty()));
            if tracking.noloop {
                flags.push("noloop");
            }
            if tracking.broken.load(Ordering::Relaxed) {
                flags.push("broken_redirect");
            }
        }
    }
    let (redirect, prefixes) = match tracking {
        None => (-1, Vec::new()),
        Some(t) => (t.redirect as i64, t.prefixes.clone()),
    };
    let reply = &mut context.reply;
    reply.map(3);
    reply.text("flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.text(flag));
    reply.text("redirect");
    reply.integer(redirect);
    reply.text("prefixes");
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    Ok(())
}
