//! Messages: channels, patterns, and channels that belong to slots.

use super::access::Access;
use super::errors::wrong_arity;
use super::introspect::HELP;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::protocol::Args;
use crate::pubsub::{Kind, Subscriptions};

const SHOW: Flags = Flags::PUBSUB.and(Flags::LOADING).and(Flags::STALE);
const SUBSCRIBE: Flags = SHOW.and(Flags::NOSCRIPT).and(Flags::SUBSCRIBED);
const PUBLISH: Flags = SHOW.and(Flags::FAST);

const fn new(name: &'static str, arity: i16, handler: super::Handler) -> Command {
    Command::new(name, arity, Group::PubSub, handler)
}

pub const COMMANDS: &[Command] = &[
    new("subscribe", -2, subscribe).flags(SUBSCRIBE)
        .doc("2.0.0", "O(N) where N is the number of channels to subscribe to.", "Listens for messages published to channels."),
    new("unsubscribe", -1, unsubscribe).flags(SUBSCRIBE)
        .doc("2.0.0", "O(N) where N is the number of channels to unsubscribe.", "Stops listening to messages posted to channels."),
    new("psubscribe", -2, psubscribe).flags(SUBSCRIBE)
        .doc("2.0.0", "O(N) where N is the number of patterns to subscribe to.", "Listens for messages published to channels that match one or more patterns."),
    new("punsubscribe", -1, punsubscribe).flags(SUBSCRIBE)
        .doc("2.0.0", "O(N) where N is the number of patterns to unsubscribe.", "Stops listening to messages published to channels that match one or more patterns."),
    new("ssubscribe", -2, ssubscribe).flags(SUBSCRIBE).keys(1, -1, 1)
        .doc("7.0.0", "O(N) where N is the number of shard channels to subscribe to.", "Listens for messages published to shard channels."),
    new("sunsubscribe", -1, sunsubscribe).flags(SUBSCRIBE).keys(1, -1, 1)
        .doc("7.0.0", "O(N) where N is the number of shard channels to unsubscribe.", "Stops listening to messages posted to shard channels."),
    new("publish", 3, publish).flags(PUBLISH)
        .doc("2.0.0", "O(N+M) where N is the number of clients subscribed to the receiving channel and M is the total number of subscribed patterns (by any client).", "Posts a message to a channel."),
    new("spublish", 3, spublish).flags(PUBLISH).keys(1, 1, 1)
        .doc("7.0.0", "O(N) where N is the number of clients subscribed to the receiving shard channel.", "Post a message to a shard channel"),
    new("pubsub", -2, container)
        .doc("2.8.0", "Depends on subcommand.", "A container for Pub/Sub commands.")
        .with(&[
            new("channels", -2, channels).flags(SHOW).doc("2.8.0", "O(N) where N is the number of active channels, and assuming constant time pattern matching (relatively short channels and patterns)", "Returns the active channels."),
            new("numpat", 2, numpat).flags(SHOW).doc("2.8.0", "O(1)", "Returns a count of unique pattern subscriptions."),
            new("numsub", -2, numsub).flags(SHOW).doc("2.8.0", "O(N) for the NUMSUB subcommand, where N is the number of requested channels", "Returns a count of subscribers to channels."),
            new("shardchannels", -2, shardchannels).flags(SHOW).doc("7.0.0", "O(N) where N is the number of active shard channels, and assuming constant time pattern matching (relatively short shard channels).", "Returns the active shard channels."),
            new("shardnumsub", -2, shardnumsub).flags(SHOW).doc("7.0.0", "O(N) for the SHARDNUMSUB subcommand, where N is the number of requested shard channels", "Returns the count of subscribers of shard channels."),
            HELP,
        ]),
];

fn container(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err(wrong_arity(context.name))
}

fn add(context: &mut Context<'_>, args: Args<'_>, kind: Kind, word: &str) {
    let session = &mut *context.session;
    let (pubsub, client) = (&context.node.pubsub, &session.client);
    let all = session
        .subscriptions
        .get_or_insert_with(|| Box::new(Subscriptions::new(pubsub.clone(), client.clone())));
    for name in args.from(1).iter() {
        all.add(kind, name);
        context.reply.push(3);
        context.reply.text(word);
        context.reply.bulk(name);
        context.reply.integer(all.counted_with(kind) as i64);
    }
}

fn remove(context: &mut Context<'_>, args: Args<'_>, kind: Kind, word: &str) {
    let mut all = context.session.subscriptions.take();
    let names: Vec<Vec<u8>> = match (args.len(), &all) {
        (1, Some(all)) => all.names(kind),
        _ => args.from(1).iter().map(<[u8]>::to_vec).collect(),
    };
    let mut told = |context: &mut Context<'_>, name: Option<&[u8]>| {
        if let (Some(all), Some(name)) = (&mut all, name) {
            all.remove(kind, name);
        }
        context.reply.push(3);
        context.reply.text(word);
        match name {
            Some(name) => context.reply.bulk(name),
            None => context.reply.null(),
        }
        let left = all.as_ref().map_or(0, |all| all.counted_with(kind));
        context.reply.integer(left as i64);
    };
    if names.is_empty() {
        told(context, None);
    }
    names.iter().for_each(|name| told(context, Some(name)));
    context.session.subscriptions = all.filter(|all| all.count() > 0);
}

fn subscribe(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    add(context, args, Kind::Channel, "subscribe");
    Ok(())
}

fn unsubscribe(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    remove(context, args, Kind::Channel, "unsubscribe");
    Ok(())
}

fn psubscribe(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    add(context, args, Kind::Pattern, "psubscribe");
    Ok(())
}

fn punsubscribe(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    remove(context, args, Kind::Pattern, "punsubscribe");
    Ok(())
}

fn ssubscribe(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    // Under the slot's lock: who subscribes while it leaves is told either way.
    let guard = match context.node.is_cluster() {
        true => Some(context.lock_all_args(args, Access::Read)?.0),
        false => None,
    };
    add(context, args, Kind::Shard, "ssubscribe");
    drop(guard);
    Ok(())
}

fn sunsubscribe(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    remove(context, args, Kind::Shard, "sunsubscribe");
    Ok(())
}

fn publish(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (channel, message) = (args.at(1), args.at(2));
    let sent = context.node.pubsub.publish(channel, message);
    context.node.cluster.spread(Kind::Channel, channel, message);
    context.reply.integer(sent as i64);
    Ok(())
}

fn spublish(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (channel, message) = (args.at(1), args.at(2));
    if context.node.is_cluster() {
        drop(context.lock_keys([channel].into_iter(), Access::Read)?);
    }
    let sent = context.node.pubsub.publish_sharded(channel, message);
    context.node.cluster.spread(Kind::Shard, channel, message);
    context.reply.integer(sent as i64);
    Ok(())
}

fn active(context: &mut Context<'_>, args: Args<'_>, kind: Kind) -> Result<(), Stop> {
    if args.len() > 3 {
        let name = super::dispatch::shown(args.at(1), 128);
        return Err(format!(
            "ERR unknown subcommand or wrong number of arguments for '{name}'. Try PUBSUB HELP."
        )
        .into());
    }
    let names = context.node.pubsub.active(kind, args.get(2));
    context.reply.array(names.len());
    names.iter().for_each(|name| context.reply.bulk(name));
    Ok(())
}

fn channels(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    active(context, args, Kind::Channel)
}

fn shardchannels(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    active(context, args, Kind::Shard)
}

fn numpat(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let count = context.node.pubsub.patterns();
    context.reply.integer(count as i64);
    Ok(())
}

fn count_each(context: &mut Context<'_>, args: Args<'_>, kind: Kind) {
    context.reply.array(2 * (args.len() - 2));
    for name in args.from(2).iter() {
        context.reply.bulk(name);
        let count = context.node.pubsub.subscribers(kind, name);
        context.reply.integer(count as i64);
    }
}

fn numsub(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    count_each(context, args, Kind::Channel);
    Ok(())
}

fn shardnumsub(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    count_each(context, args, Kind::Shard);
    Ok(())
}
