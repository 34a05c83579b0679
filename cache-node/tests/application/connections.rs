//! What connections may and may not do.

use std::io::{Read, Write};
use std::time::Duration;

use cache_node::store::SlotState;
use cache_node::store::effect::write_command;

use super::wire::{Client, Reply, TestNode, wait_for};

fn commands(list: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in list {
        let words: Vec<&[u8]> = command.split_whitespace().map(str::as_bytes).collect();
        write_command(&mut bytes, &words);
    }
    bytes
}

/// A client that asks for much and reads nothing is not served further, and gets everything once it reads.
#[test]
fn a_client_that_does_not_read_is_held_back() {
    let node = TestNode::start();
    let mut client = node.client();
    let value = "v".repeat(1 << 20);
    assert_eq!(client.ask(&format!("SET big {value}")).text(), "+OK");
    const ASKED: usize = 300;
    client.send(&commands(&["GET big"; ASKED]));
    let executed = || node.node.stats.commands() as usize - 1;
    // Some are executed, and then no more.
    wait_for("replies that fill the sockets", || executed() >= 2);
    let mut before = 0;
    wait_for("a standstill", || {
        let now = executed();
        std::thread::sleep(Duration::from_millis(50));
        std::mem::replace(&mut before, now) == now
    });
    assert!(executed() < ASKED / 2, "{} executed", executed());
    let info = node.client().ask("CLIENT LIST").text();
    assert!(info.contains("obl="), "{info}");
    for _ in 0..ASKED {
        assert_eq!(client.reply().unwrap().text().len(), 1 << 20);
    }
    assert_eq!(client.ask("PING").text(), "+PONG");
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let node = TestNode::with(|config| config.max_clients = 2);
    let mut clients = [node.client(), node.client()];
    for client in &mut clients {
        assert_eq!(client.ask("PING").text(), "+PONG");
    }
    let mut third = node.client();
    assert_eq!(third.rest(), b"-ERR max number of clients reached\r\n");
    assert_eq!(clients[0].ask("QUIT").text(), "+OK");
    wait_for("room", || node.node.clients.len() < 2);
    assert_eq!(node.client().ask("PING").text(), "+PONG");
}

#[test]
fn passwords_are_asked_for_and_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    std::fs::write(&path, "one\n").unwrap();
    let node = TestNode::with(|config| config.password_file = Some(path.clone()));
    let mut client = node.client();
    assert_eq!(
        client.ask("GET a").text(),
        "-NOAUTH Authentication required."
    );
    assert_eq!(
        client.ask("NOSUCH").text(),
        "-ERR unknown command 'NOSUCH', with args beginning with: "
    );
    assert!(
        client
            .ask("HELLO 3")
            .text()
            .starts_with("-NOAUTH HELLO must be called")
    );
    assert!(client.ask("AUTH wrong").text().starts_with("-WRONGPASS "));
    assert!(
        client
            .ask("AUTH nobody one")
            .text()
            .starts_with("-WRONGPASS ")
    );
    assert_eq!(client.ask("AUTH one").text(), "+OK");
    assert_eq!(client.ask("GET a"), Reply::Bulk(None));
    assert_eq!(client.ask("RESET").text(), "+RESET");
    assert!(client.ask("GET a").is_error());
    let next = dir.path().join("next");
    std::fs::write(&next, "two\n").unwrap();
    std::fs::rename(&next, &path).unwrap();
    assert!(client.ask("AUTH one").is_error());
    let hello = client.ask("HELLO 3 AUTH default two SETNAME me");
    assert!(matches!(hello, Reply::Many(b'%', Some(_))), "{hello:?}");
    assert_eq!(client.ask("CLIENT GETNAME").text(), "me");
    // Before AUTH a command is small.
    let mut stranger = node.client();
    stranger.send(b"*1\r\n$100000\r\n");
    assert_eq!(
        stranger.rest(),
        b"-ERR Protocol error: unauthenticated bulk length\r\n"
    );
}

#[test]
fn clients_are_listed_and_killed() {
    let node = TestNode::start();
    let (mut a, mut b) = (node.client(), node.client());
    assert_eq!(a.ask("CLIENT SETNAME first").text(), "+OK");
    assert_eq!(b.ask("CLIENT SETINFO LIB-NAME test").text(), "+OK");
    assert_eq!(
        a.ask("CLIENT SETNAME in\u{e9}valid").text(),
        "-ERR Client names cannot contain spaces, newlines or special characters."
    );
    let list = a.ask("CLIENT LIST").text();
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(
        list.contains("name=first")
            && list.contains("lib-name=test")
            && list.contains("cmd=client|list"),
        "{list}"
    );
    let id = b.ask("CLIENT ID").text().replace(':', "");
    let one = a.ask(&format!("CLIENT LIST ID {id}")).text();
    assert!(
        one.starts_with(&format!("id={id} ")) && one.lines().count() == 1,
        "{one}"
    );
    assert_eq!(a.ask(&format!("CLIENT KILL ID {id}")).text(), ":1");
    assert_eq!(b.rest(), b"");
    assert_eq!(a.ask(&format!("CLIENT KILL ID {id}")).text(), ":0");
    let me = a.stream.local_addr().unwrap();
    assert_eq!(a.ask(&format!("CLIENT KILL {me}")).text(), "+OK");
    assert_eq!(a.rest(), b"");
    wait_for("both to be gone", || node.node.clients.is_empty());
}

#[test]
fn replies_can_be_turned_off() {
    let node = TestNode::start();
    let mut client = node.client();
    client.send(&commands(&[
        "CLIENT REPLY SKIP",
        "SET a 1",
        "GET a",
        "CLIENT REPLY OFF",
        "SET a 2",
        "NOSUCH",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY ON",
        "GET a",
    ]));
    let texts: Vec<String> = (0..3).map(|_| client.reply().unwrap().text()).collect();
    assert_eq!(texts, ["1", "+OK", "2"]);
}

/// A write to a paused slot waits, reads go on, and the pipeline keeps its order.
#[test]
fn a_command_that_must_wait_runs_once_when_woken() {
    let node = TestNode::start();
    let (mut writer, mut reader) = (node.client(), node.client());
    assert_eq!(writer.ask("SET counter 5").text(), "+OK");
    let slot = node.node.store.point(b"counter").slot;
    let set = |state| {
        node.node.store.lock(slot).set_slot_state(slot, state);
        node.node.wakers.wake_all();
    };
    set(SlotState::WritePaused);
    writer.send(&commands(&[
        "GET counter",
        "INCR counter",
        "GET counter",
        "SET other x",
        "INCR counter",
    ]));
    assert_eq!(writer.reply().unwrap().text(), "5");
    let parked = || node.node.stats.sum(|s| &s.parked);
    wait_for("the write to wait", || parked() == 1);
    // Nothing behind it was executed, others are served, and a wake-up without a change changes nothing.
    assert_eq!(reader.ask("GET counter").text(), "5");
    assert_eq!(reader.ask("GET other"), Reply::Bulk(None));
    wait_for("it to be listed as waiting", || {
        reader.ask("CLIENT LIST").text().contains("flags=b")
    });
    node.node.wakers.wake_all();
    wait_for("another try", || parked() >= 2);
    assert_eq!(reader.ask("GET counter").text(), "5");
    set(SlotState::Serve);
    let texts: Vec<String> = (0..4).map(|_| writer.reply().unwrap().text()).collect();
    assert_eq!(texts, [":6", "6", "+OK", ":7"]);
}

/// What was sent before the stop is executed and answered; then the connections end.
#[test]
fn a_stopping_node_answers_what_it_has_received() {
    let mut node = TestNode::start();
    let mut clients: Vec<Client> = (0..20).map(|_| node.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING").text(), "+PONG");
        client.send(&commands(&["INCR n"; 200]));
    }
    wait_for("the first of them", || node.node.stats.commands() > 20);
    node.drain();
    let mut answered = 0;
    for client in &mut clients {
        while let Some(reply) = client.reply() {
            assert!(!reply.is_error());
            answered += 1;
        }
    }
    let p = node.node.store.point(b"n");
    let mut guard = node.node.store.lock(p.slot);
    let counted = guard.get(p, b"n", 0).map(|item| item.value().to_vec());
    assert_eq!(counted, Some(answered.to_string().into_bytes()));
    assert!(std::net::TcpStream::connect(node.address).is_err());
}

#[test]
fn a_client_may_close_its_side_and_still_get_its_replies() {
    let node = TestNode::start();
    let mut client = node.client();
    client.send(&commands(&["SET a 1", "GET a"]));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), b"+OK\r\n$1\r\n1\r\n");
    wait_for("it to be gone", || node.node.clients.is_empty());
}

#[test]
fn commands_come_in_any_pieces() {
    let node = TestNode::start();
    let mut client = node.client();
    let big = "x".repeat(200_000);
    let mut bytes = commands(&[&format!("SET big {big}"), "STRLEN big"]);
    bytes.extend_from_slice(b"PING\r\n");
    for piece in bytes.chunks(997) {
        client.stream.write_all(piece).unwrap();
    }
    let texts: Vec<String> = (0..3).map(|_| client.reply().unwrap().text()).collect();
    assert_eq!(texts, ["+OK", ":200000", "+PONG"]);
}

#[test]
fn a_pipeline_cut_anywhere_is_answered_the_same() {
    let node = TestNode::start();
    let mut client = node.client();
    let mut bytes = commands(&["SET a 1", "INCR a", "NOSUCH a", "GET"]);
    bytes.extend_from_slice(b"GET a\r\n*0\r\n");
    bytes.extend(commands(&[
        "CLIENT REPLY SKIP",
        "GET a",
        "APPEND a x",
        "DEL a",
    ]));
    let expected =
        b"+OK\r\n:2\r\n-ERR unknown command 'NOSUCH', with args beginning with: 'a' \r\n\
        -ERR wrong number of arguments for 'get' command\r\n$1\r\n2\r\n:2\r\n:1\r\n";
    for cut in 0..=bytes.len() {
        client.send(&bytes[..cut]);
        client.send(&bytes[cut..]);
        let mut received = vec![0; expected.len()];
        client.stream.read_exact(&mut received).unwrap();
        assert_eq!(
            received,
            expected,
            "cut at {cut}: {}",
            received.escape_ascii()
        );
    }
}

#[test]
fn what_follows_a_reset_in_a_pipeline_is_a_strangers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    std::fs::write(&path, "one\n").unwrap();
    let node = TestNode::with(|config| config.password_file = Some(path.clone()));
    let mut client = node.client();
    assert_eq!(client.ask("AUTH one").text(), "+OK");
    client.send(&commands(&[
        "SET a 1",
        "RESET",
        "GET a",
        "DEL 1 2 3 4 5 6 7 8 9 10 11",
    ]));
    assert_eq!(
        client.rest().escape_ascii().to_string(),
        "+OK\\r\\n+RESET\\r\\n-NOAUTH Authentication required.\\r\\n\
         -ERR Protocol error: unauthenticated multibulk length\\r\\n"
    );
}

#[test]
fn idle_connections_end_when_that_is_wanted() {
    let node = TestNode::start();
    let mut idle = node.client();
    let mut other = node.client();
    assert_eq!(idle.ask("PING").text(), "+PONG");
    assert_eq!(other.ask("CONFIG SET timeout 1").text(), "+OK");
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_millis(2_500) {
        assert_eq!(other.ask("PING").text(), "+PONG");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(idle.rest(), b"");
    assert_eq!(node.node.clients.len(), 1);
}

/// A single command whose reply is beyond the limit ends its connection, and nobody else's.
#[test]
fn a_reply_beyond_the_limit_ends_the_connection() {
    let node = TestNode::start();
    let mut client = node.client();
    let mut other = node.client();
    let value = "v".repeat(8 << 20);
    assert_eq!(client.ask(&format!("SET big {value}")).text(), "+OK");
    // By reference: 2.4 GB of replies take 8 MB of memory.
    let mget = format!("MGET{}", " big".repeat(300));
    client.send(&commands(&[&mget]));
    assert_eq!(client.rest(), b"");
    assert_eq!(node.node.stats.sum(|s| &s.output_closed), 1);
    assert_eq!(other.ask("STRLEN big").text(), format!(":{}", 8 << 20));
}

#[test]
fn settings_are_checked_before_any_is_set() {
    let node = TestNode::start();
    let mut client = node.client();
    let refused = client.ask("CONFIG SET timeout 5 maxmemory 1gb databases 2");
    let says = "-ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config";
    assert_eq!(refused.text(), says);
    assert_eq!(client.ask("CONFIG GET timeout").items()[1].text(), "0");
    assert_eq!(
        client.ask("CONFIG SET maxmemory 64mb TIMEOUT 0").text(),
        "+OK"
    );
    assert_eq!(
        client.ask("CONFIG GET MAXMEMORY").items()[1].text(),
        "67108864"
    );
    assert_eq!(node.node.store.stats().max_bytes, 64 << 20);
    let many = client.ask("CONFIG SET maxclients 4000000000").text();
    assert!(
        many.contains("The operating system is not able to handle"),
        "{many}"
    );
    assert!(client.ask("CONFIG SET proto-max-bulk-len 1gb").is_error());
    assert_eq!(
        client.ask("CONFIG SET proto-max-bulk-len 1mb").text(),
        "+OK"
    );
    let big = "x".repeat((1 << 20) - 1);
    assert_eq!(client.ask(&format!("SET a {big}")).text(), "+OK");
    assert!(
        client
            .ask("APPEND a xy")
            .text()
            .contains("proto-max-bulk-len")
    );
    client.send(b"*2\r\n$4\r\nECHO\r\n$1048577\r\n");
    assert_eq!(
        client.reply().unwrap().text(),
        "-ERR Protocol error: invalid bulk length"
    );
}

/// A client that sends a command without an end takes no memory without an end.
#[test]
fn a_command_beyond_the_input_limit_closes_its_connection() {
    const MIB: usize = 1 << 20;
    let node = TestNode::start();
    let mut client = node.client();
    let limit = |client: &mut Client, to: &str| {
        client
            .ask(&format!("CONFIG SET client-query-buffer-limit {to}"))
            .text()
    };
    assert!(limit(&mut client, "1mb").starts_with("+OK"));
    let mut other = node.client();
    for beyond in ["2gb", "1000"] {
        assert!(limit(&mut other, beyond).contains("argument must be between"));
    }
    // It fits, and is executed.
    let value = "v".repeat(MIB - 1_000);
    assert_eq!(client.ask(&format!("SET a {value}")).text(), "+OK");
    // Arguments that are each within their limit, and more together than is kept for one connection.
    let head = format!(
        "*3\r\n$4\r\nMGET\r\n${0}\r\n{1}\r\n${0}\r\n",
        value.len(),
        value
    );
    client.send(head.as_bytes());
    // The server may have closed it by now.
    let _ = client.stream.write_all(value.as_bytes());
    assert_eq!(client.rest(), b"");
    assert_eq!(other.ask("STRLEN a").text(), format!(":{}", value.len()));
}
