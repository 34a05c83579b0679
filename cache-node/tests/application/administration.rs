//! What administers: pauses, monitors, slow commands, kills, waiting for replicas, and debugging.

use std::time::{Duration, Instant};

use cache_node::config::DebugAccess;

use super::wire::{Reply, TestNode, wait_for};

#[test]
fn a_pause_holds_writes_or_everything_until_its_end() {
    let node = TestNode::start();
    let (mut admin, mut client) = (node.client(), node.client());
    let parked = |admin: &mut super::wire::Client| {
        wait_for("a client waits", || {
            admin.ask("CLIENT LIST").text().contains("flags=b")
        });
    };
    assert_eq!(admin.ask("CLIENT PAUSE 100000 WRITE").text(), "+OK");
    assert_eq!(client.ask("GET a"), Reply::Bulk(None));
    client.send(b"MULTI\r\nSET a 1\r\nEXEC\r\n");
    assert_eq!(client.reply().unwrap().text(), "+OK");
    assert_eq!(client.reply().unwrap().text(), "+QUEUED");
    parked(&mut admin);
    assert_eq!(admin.ask("GET a"), Reply::Bulk(None));
    assert_eq!(admin.ask("CLIENT UNPAUSE").text(), "+OK");
    assert_eq!(client.reply().unwrap().items()[0].text(), "+OK");
    // A script waits unless it says that it does not write, and what is wrong is told at once.
    assert_eq!(admin.ask("CLIENT PAUSE 100000 WRITE").text(), "+OK");
    assert_eq!(
        admin.ask_words(&[b"EVAL_RO", b"return 1", b"0"]).text(),
        ":1"
    );
    let reads = b"#!lua flags=no-writes\nreturn 2";
    assert_eq!(admin.ask_words(&[b"EVAL", reads, b"0"]).text(), ":2");
    assert_eq!(admin.ask_words(&[b"EVAL", reads, b"0"]).text(), ":2");
    assert!(admin.ask("SET a").is_error());
    client.send(b"MULTI\r\nEVAL 'return 3' 0\r\nEXEC\r\n");
    assert_eq!(client.reply().unwrap().text(), "+OK");
    assert_eq!(client.reply().unwrap().text(), "+QUEUED");
    parked(&mut admin);
    assert_eq!(admin.ask("CLIENT UNPAUSE").text(), "+OK");
    assert_eq!(client.reply().unwrap().items()[0].text(), ":3");
    // One that ends by itself.
    let begun = Instant::now();
    assert_eq!(admin.ask("CLIENT PAUSE 50 ALL").text(), "+OK");
    assert_eq!(client.ask("GET a").text(), "1");
    assert!(begun.elapsed() >= Duration::from_millis(50));
    for wrong in [
        "CLIENT PAUSE",
        "CLIENT PAUSE x",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 1 SOME",
    ] {
        assert!(admin.ask(wrong).is_error(), "{wrong}");
    }
}

#[test]
fn a_monitor_sees_what_is_executed() {
    let node = TestNode::start();
    let (mut monitor, mut client) = (node.client(), node.client());
    assert_eq!(monitor.ask("MONITOR").text(), "+OK");
    client.ask_words(&[b"SET", b"a", b"x\"\r\n\xff"]);
    client.ask("AUTH secret");
    client.ask("CONFIG GET maxmemory");
    client.ask("MULTI");
    client.ask("GET a");
    client.ask("EXEC");
    client.ask_words(&[b"EVAL", b"return 1", b"0"]);
    let expected = [
        r#""SET" "a" "x\"\r\n\xff""#,
        r#""AUTH" "(redacted)""#,
        r#""MULTI""#,
        r#""GET" "a""#,
        r#""EXEC""#,
        r#""EVAL" "return 1" "0""#,
    ];
    for words in expected {
        let line = monitor.reply().unwrap().text();
        assert!(
            line.starts_with('+') && line.ends_with(words) && line.contains(" [0 127.0.0.1:"),
            "{line}"
        );
    }
    assert_eq!(monitor.ask("RESET").text(), "+RESET");
    client.ask("GET a");
    assert_eq!(monitor.ask("PING").text(), "+PONG");
}

#[test]
fn slow_commands_are_kept() {
    let node = TestNode::with(|config| config.enable_debug_command = DebugAccess::Local);
    let mut client = node.client();
    client.ask("CLIENT SETNAME me");
    assert_eq!(client.ask("DEBUG SLEEP 0.02").text(), "+OK");
    client.ask("GET a");
    let slow = client.ask("SLOWLOG GET");
    assert_eq!(slow.items().len(), 1);
    let entry = slow.items()[0].items();
    assert!(entry[2].text()[1..].parse::<u64>().unwrap() >= 20_000);
    assert_eq!(entry[3].items()[0].text(), "DEBUG");
    assert_eq!(entry[5].text(), "me");
    assert_eq!(client.ask("SLOWLOG RESET").text(), "+OK");
    assert_eq!(client.ask("SLOWLOG LEN").text(), ":0");
    client.ask("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 2");
    client.ask("SLOWLOG RESET");
    let long = "x".repeat(200);
    let words: Vec<&[u8]> = std::iter::repeat_n(long.as_bytes(), 40).collect();
    client.ask_words(&[&[&b"DEL"[..]][..], &words].concat());
    let slow = client.ask("SLOWLOG GET -1");
    let args = slow.items()[0].items()[3].items();
    assert_eq!(
        (args.len(), args[31].text().as_str()),
        (32, "... (10 more arguments)")
    );
    assert!(args[1].text().ends_with("... (72 more bytes)"));
    assert_eq!(client.ask("SLOWLOG LEN").text(), ":2");
    client.ask("CONFIG SET slowlog-log-slower-than -1 latency-monitor-threshold 10");
    client.ask("DEBUG SLEEP 0.02");
    let latest = client.ask("LATENCY LATEST");
    assert_eq!(latest.items()[0].items()[0].text(), "command");
    assert_eq!(client.ask("LATENCY HISTORY command").items().len(), 1);
    assert!(
        client
            .ask("LATENCY GRAPH command")
            .text()
            .starts_with("command - high")
    );
    assert!(client.ask("LATENCY GRAPH nosuch").is_error());
    assert_eq!(client.ask("LATENCY RESET").text(), ":1");
}

#[test]
fn debugging_is_for_those_who_may() {
    let node = TestNode::start();
    assert!(
        node.client()
            .ask("DEBUG SLEEP 0")
            .text()
            .starts_with("-ERR DEBUG command not allowed")
    );
    let node = TestNode::with(|config| config.enable_debug_command = DebugAccess::Yes);
    let mut client = node.client();
    client.ask("SET a 1");
    assert!(client.ask("DEBUG OBJECT a").text().contains("encoding:int"));
    assert!(client.ask("DEBUG OBJECT b").is_error());
    assert!(client.ask("DEBUG SEGFAULT").is_error());
    assert_eq!(client.ask("DEBUG SET-ACTIVE-EXPIRE 0").text(), "+OK");
}

#[test]
fn waiting_for_replicas_ends_with_its_time() {
    let node = TestNode::start();
    let mut client = node.client();
    assert_eq!(client.ask("WAIT 0 0").text(), ":0");
    let begun = Instant::now();
    assert_eq!(client.ask("WAIT 1 30").text(), ":0");
    assert!(begun.elapsed() >= Duration::from_millis(30));
    client.ask("MULTI");
    client.ask("WAIT 1 100000");
    assert_eq!(client.ask("EXEC").items()[0].text(), ":0");
    assert!(client.ask("WAIT 1 -1").is_error());
    assert!(client.ask("WAITAOF 1 0 0").text().contains("not supported"));
}

/// The names in a reply of `LATENCY HISTOGRAM`, and how often each was called.
fn histograms(client: &mut super::wire::Client, names: &str) -> Vec<String> {
    let reply = client.ask(&format!("LATENCY HISTOGRAM {names}"));
    let pairs = reply.items().chunks(2);
    pairs
        .map(|pair| {
            let fields = pair[1].items();
            assert_eq!(fields[0].text(), "calls");
            assert_eq!(fields[2].text(), "histogram_usec");
            // The last bound has them all.
            assert_eq!(fields[3].items().last().unwrap(), &fields[1]);
            format!("{}{}", pair[0].text(), fields[1].text())
        })
        .collect()
}

#[test]
fn timed_commands_have_histograms() {
    let node = TestNode::start();
    let mut client = node.client();
    client.ask("GET a");
    assert!(histograms(&mut client, "get").is_empty(), "not timed");
    assert_eq!(client.ask("CONFIG SET latency-tracking yes").text(), "+OK");
    assert_eq!(client.ask("CONFIG RESETSTAT").text(), "+OK");
    for command in ["GET a", "GET b", "CLIENT ID", "CLIENT GETNAME", "NOSUCH"] {
        client.ask(command);
    }
    assert_eq!(
        histograms(&mut client, "get set nosuch client|id"),
        ["get:2", "client|id:1"]
    );
    assert_eq!(
        histograms(&mut client, "client"),
        ["client|id:1", "client|getname:1"]
    );
    let all = histograms(&mut client, "");
    assert!(
        all.contains(&"config|resetstat:1".to_owned()) && all.len() == 5,
        "{all:?}"
    );
    assert_eq!(client.ask("CONFIG SET latency-tracking no").text(), "+OK");
    client.ask("GET a");
    assert_eq!(histograms(&mut client, "get"), ["get:2"]);
    assert!(client.ask("CONFIG SET latency-tracking maybe").is_error());
}

#[test]
fn a_client_is_told_what_it_holds() {
    let node = TestNode::start();
    let mut client = node.client();
    let list = client.ask("CLIENT LIST").text();
    // The command itself, as it was sent.
    let sent = "*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n".len();
    assert!(
        list.contains(&format!(
            " qbuf={sent} qbuf-free=0 argv-mem={sent} multi-mem=0 "
        )),
        "{list}"
    );
    assert!(list.contains(" obl=0 oll=0 omem=0 tot-mem="), "{list}");
    let mut other = node.client();
    other.ask("MULTI");
    other.ask("SET a 1");
    wait_for("the queue is listed", || {
        let list = client.ask("CLIENT LIST").text();
        list.contains(" multi=1 ")
            && list
                .lines()
                .any(|line| line.contains(" qbuf=0 ") && !line.contains(" multi-mem=0 "))
    });
}

#[test]
fn clients_are_listed_and_killed_by_what_they_are() {
    let node = TestNode::start();
    let (mut admin, mut subscriber, mut tracker) = (node.client(), node.client(), node.client());
    subscriber.ask("SUBSCRIBE c");
    tracker.ask("HELLO 3");
    tracker.ask("CLIENT TRACKING ON");
    tracker.ask("MULTI");
    tracker.ask("GET a");
    let list = admin.ask("CLIENT LIST TYPE pubsub").text();
    assert!(
        list.contains("sub=1 psub=0 ssub=0") && list.contains("flags=P"),
        "{list}"
    );
    wait_for("the transaction is listed", || {
        let list = admin.ask("CLIENT LIST TYPE normal").text();
        list.contains("multi=1") && list.contains("flags=tx") && list.contains("redir=0")
    });
    assert_eq!(admin.ask("CLIENT KILL TYPE pubsub").text(), ":1");
    assert_eq!(subscriber.reply(), None);
    wait_for("it subscribes to nothing any more", || {
        admin.ask("PUBSUB NUMSUB c").items()[1].text() == ":0"
    });
}
