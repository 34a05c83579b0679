//! `DEBUG`: refused unless allowed; digests are those of a real redis-server for the same data; values survive being made anew.

use cache_node::background::{Accounts, Background};
use cache_node::config::DebugAccess;

use super::redis::Redis;
use super::wire::{Client, Reply, TestNode, wait_for};

fn fill(client: &mut Client) {
    let commands = [
        "SET text hello",
        "SET number 12345 PX 100000000",
        "SET empty ''",
        "RPUSH list a b 17 -5 c",
        "SADD ints 1 2 3 -70000",
        "SADD names x y z 12",
        "HSET hash f v g 12 h 0.5",
        "ZADD zset 1 one 2.5 two -inf low 0.1 tenth 1e300 big 0.00001 small 123456789012345678 long",
    ];
    for command in commands {
        assert!(!client.ask(command).is_error(), "{command}");
    }
    // Beyond what is packed.
    for i in 0..600 {
        for command in [
            format!("RPUSH long:list element:{i}"),
            format!("SADD long:set member:{i}"),
            format!("HSET long:hash field:{i} {i}"),
            format!("ZADD long:zset {i}.25 member:{i}"),
        ] {
            assert!(!client.ask(&command).is_error(), "{command}");
        }
    }
}

const KEYS: &str =
    "text number empty list ints names hash zset long:list long:set long:hash long:zset none";

#[test]
fn digests_are_those_of_redis_and_outlive_a_reload() {
    let redis = Redis::start_with(&["--enable-debug-command", "yes"]);
    let node = TestNode::with(|config| config.enable_debug_command = DebugAccess::Local);
    let (mut redis, mut client) = (redis.client(), node.client());
    let asked = [
        "DEBUG DIGEST".to_owned(),
        format!("DEBUG DIGEST-VALUE {KEYS}"),
    ];
    let answers = |client: &mut Client| asked.clone().map(|command| client.ask(&command));
    assert_eq!(answers(&mut client), answers(&mut redis));
    fill(&mut redis);
    fill(&mut client);
    let before = answers(&mut redis);
    assert_eq!(answers(&mut client), before);
    assert_eq!(client.ask("DEBUG RELOAD").text(), "+OK");
    assert_eq!(answers(&mut client), before);
    assert!(!client.ask("SREM long:set member:7").is_error());
    assert_ne!(answers(&mut client), before);
}

#[test]
fn each_type_of_the_protocol_is_written_as_redis_writes_it() {
    let redis = Redis::start_with(&["--enable-debug-command", "yes"]);
    let node = TestNode::with(|config| config.enable_debug_command = DebugAccess::Local);
    let (mut redis, mut client) = (redis.client(), node.client());
    for protocol in [2, 3] {
        for client in [&mut redis, &mut client] {
            assert!(!client.ask(&format!("HELLO {protocol}")).is_error());
        }
        for name in
            "string integer double null array set map verbatim true false bignum other".split(' ')
        {
            let command = format!("DEBUG PROTOCOL {name}");
            assert_eq!(
                client.ask(&command),
                redis.ask(&command),
                "{name} in {protocol}"
            );
        }
    }
}

#[test]
fn it_is_refused_unless_allowed() {
    let node = TestNode::start();
    let mut client = node.client();
    for command in [
        "DEBUG DIGEST",
        "DEBUG SLEEP 0",
        "DEBUG SET-ACTIVE-EXPIRE 0",
        "DEBUG RELOAD",
        "DEBUG OBJECT k",
    ] {
        let reply = client.ask(command).text();
        assert!(
            reply.starts_with("-ERR DEBUG command not allowed"),
            "{command}: {reply}"
        );
    }
}

/// Scripts may execute then what is meant for clients; they see each type as redis-server's scripts do.
#[test]
fn scripts_execute_all_while_that_is_wanted() {
    let redis = Redis::start_with(&["--enable-debug-command", "yes"]);
    let node = TestNode::with(|config| config.enable_debug_command = DebugAccess::Local);
    let (mut redis, mut client) = (redis.client(), node.client());
    // What a script has as a table has no order.
    let sorted = |reply: Reply| match reply {
        Reply::Many(kind, Some(items)) => {
            let mut items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            items.sort();
            format!("{kind} {items:?}")
        }
        reply => format!("{reply:?}"),
    };
    let compare = |redis: &mut Client, client: &mut Client, words: &[&str]| {
        let bytes: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        let replies = [client, redis].map(|client| sorted(client.ask_words(&bytes)));
        assert_eq!(replies[0], replies[1], "{words:?}");
    };
    let script = "return redis.call('debug', 'protocol', 'map')";
    compare(&mut redis, &mut client, &["EVAL", script, "0"]);
    compare(
        &mut redis,
        &mut client,
        &["DEBUG", "SET-DISABLE-DENY-SCRIPTS", "1"],
    );
    for (spoken, wanted) in [("2", "2"), ("2", "3"), ("3", "2"), ("3", "3")] {
        for client in [&mut redis, &mut client] {
            assert!(!client.ask(&format!("HELLO {spoken}")).is_error());
        }
        for name in [
            "string", "integer", "double", "null", "array", "set", "map", "attrib", "verbatim",
            "true", "false", "bignum",
        ] {
            let script =
                format!("redis.setresp({wanted}) return redis.call('debug', 'protocol', '{name}')");
            compare(&mut redis, &mut client, &["EVAL", &script, "0"]);
        }
    }
    compare(
        &mut redis,
        &mut client,
        &["DEBUG", "SET-DISABLE-DENY-SCRIPTS", "0"],
    );
    compare(&mut redis, &mut client, &["EVAL", script, "0"]);
    assert!(client.ask("DEBUG SET-DISABLE-DENY-SCRIPTS x").is_error());
    // Another script would need this one's state, and a transaction its connection.
    assert_eq!(client.ask("DEBUG SET-DISABLE-DENY-SCRIPTS 1").text(), "+OK");
    for command in ["'eval', 'return 1', '0'", "'multi'", "'script', 'flush'"] {
        let script = format!("return redis.call({command})");
        let reply = client.ask_words(&[b"EVAL", script.as_bytes(), b"0"]).text();
        assert!(reply.contains("not allowed from script"), "{reply}");
    }
}

#[test]
fn expired_keys_stay_unasked_while_that_is_wanted() {
    let node = TestNode::with(|config| config.enable_debug_command = DebugAccess::Local);
    let background = Background::start(node.node.clone(), Accounts::Store).unwrap();
    let mut client = node.client();
    assert_eq!(client.ask("DEBUG SET-ACTIVE-EXPIRE 0").text(), "+OK");
    let mut other = node.client();
    for i in 0..10 {
        assert!(!client.ask(&format!("SET k{i} v PX 1")).is_error());
    }
    // Asking for one removes that one.
    wait_for("k0", || other.ask("EXISTS k0").text() == ":0");
    wait_for("k9", || other.ask("EXISTS k9").text() == ":0");
    assert_eq!(client.ask("DBSIZE").text(), ":8");
    assert_eq!(client.ask("DEBUG SET-ACTIVE-EXPIRE 1").text(), "+OK");
    wait_for("the sweep", || other.ask("DBSIZE").text() == ":0");
    background.stop();
}
