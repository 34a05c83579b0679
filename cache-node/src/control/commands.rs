//! The commands of the control port.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use super::connection::OwnedTask;
use super::resp::Reply;
use super::watch;
use crate::cluster::Cluster;
use crate::limits::WRITES_PAUSE_MAX;
use crate::moves::{ImportRequest, export};
use crate::persist::snapshot::{self, Snapshot};
use crate::replicate::SyncRequest;

/// What a connection is.
pub struct Session {
    cluster: Arc<Cluster>,
    /// It has shown the password.
    pub known: bool,
    pub resp3: bool,
    out: mpsc::Sender<Vec<u8>>,
    watch: Option<OwnedTask>,
    snapshot: Option<Snapshot>,
}

impl Session {
    pub fn new(cluster: Arc<Cluster>, out: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            cluster,
            known: false,
            resp3: false,
            out,
            watch: None,
            snapshot: None,
        }
    }
}

/// What follows a command.
pub enum Then {
    Reply(Reply),
    Close(Option<Reply>),
    /// The connection becomes a replication stream.
    Sync(SyncRequest),
    /// The connection becomes a slot move's stream.
    Import(ImportRequest),
}

fn error(text: impl Into<String>) -> Then {
    Then::Reply(Reply::Error(text.into()))
}

fn upper(word: Option<&Bytes>) -> String {
    word.map_or(String::new(), |w| {
        String::from_utf8_lossy(w).to_ascii_uppercase()
    })
}

fn text(word: &Bytes) -> String {
    String::from_utf8_lossy(word).into_owned()
}

pub async fn execute(session: &mut Session, command: &[Bytes]) -> Then {
    let name = upper(command.first());
    match name.as_str() {
        "AUTH" => auth(session, &command[1..]),
        "HELLO" => hello(session, &command[1..]),
        "QUIT" => Then::Close(Some(Reply::ok())),
        _ if !session.known => {
            error("NOAUTH Authentication required: AUTH with the control password.")
        }
        "PING" => match command.get(1) {
            Some(what) => Then::Reply(Reply::Bulk(what.to_vec())),
            None => Then::Reply(Reply::Simple("PONG".into())),
        },
        "INFO" => Then::Reply(Reply::text(info(&session.cluster))),
        "CLIENT" => match upper(command.get(1)).as_str() {
            "SETINFO" | "SETNAME" => Then::Reply(Reply::ok()),
            other => error(format!(
                "ERR CLIENT {other} is not a command of the control port"
            )),
        },
        "CACHE.NODE" => node(session, &command[1..]).await,
        _ => error(format!(
            "ERR {name} is not a command of the control port; CACHE.NODE is"
        )),
    }
}

fn auth(session: &mut Session, args: &[Bytes]) -> Then {
    let password = match args {
        [password] => password,
        [user, password] if &user[..] == b"default" => password,
        _ => return error("WRONGPASS the control port knows AUTH <password>"),
    };
    if session.cluster.accepts(password) {
        session.known = true;
        return Then::Reply(Reply::ok());
    }
    error("WRONGPASS not the control port's password")
}

fn hello(session: &mut Session, args: &[Bytes]) -> Then {
    let mut resp3 = session.resp3;
    if let Some(version) = args.first() {
        resp3 = match &version[..] {
            b"2" => false,
            b"3" => true,
            _ => return error("NOPROTO unsupported protocol version"),
        };
    }
    let mut rest = args.get(1..).unwrap_or_default();
    while let Some(option) = rest.first() {
        match (upper(Some(option)).as_str(), rest.len()) {
            ("AUTH", 3..) => {
                if let Then::Reply(Reply::Error(text)) = auth(session, &rest[1..3]) {
                    return error(text);
                }
                rest = &rest[3..];
            }
            ("SETNAME", 2..) => rest = &rest[2..],
            (other, _) => return error(format!("ERR Syntax error in HELLO option '{other}'")),
        }
    }
    if !session.known {
        return error(
            "NOAUTH HELLO must be called with AUTH on the control port: HELLO 3 AUTH default <password>",
        );
    }
    session.resp3 = resp3;
    let pairs = vec![
        ("server", Reply::text("cache-node")),
        ("version", Reply::text(env!("CARGO_PKG_VERSION"))),
        ("proto", Reply::Integer(if resp3 { 3 } else { 2 })),
        ("mode", Reply::text("control")),
        (
            "role",
            Reply::text(format!("{:?}", session.cluster.role()).to_lowercase()),
        ),
        ("modules", Reply::Array(Vec::new())),
    ];
    Then::Reply(Reply::Map(pairs))
}

fn info(cluster: &Cluster) -> String {
    let state = cluster.state();
    format!(
        "# Server\r\ncache_version:{}\r\nmember:{}\r\ndata_id:{}\r\n# Cluster\r\ncluster_id:{}\r\nepoch:{}\r\nshard:{}\r\nrole:{:?}\r\nserving:{}\r\n\
         # Log\r\nlog_epoch:{}\r\noffset:{}\r\n# Keyspace\r\nkeys:{}\r\nbytes:{}\r\n",
        state.version,
        state.member,
        state.data_id,
        state.cluster_id,
        state.epoch,
        state.shard,
        state.role,
        u8::from(state.serving),
        state.log_epoch,
        state.offset,
        state.keys,
        state.bytes
    )
}

async fn node(session: &mut Session, args: &[Bytes]) -> Then {
    let cluster = session.cluster.clone();
    let (sub, rest) = (upper(args.first()), args.get(1..).unwrap_or_default());
    match (sub.as_str(), rest) {
        ("HELLO", []) => Then::Reply(watch::state_reply(&cluster)),
        ("WATCH", []) => begin_watch(session),
        ("TOPOLOGY", [what]) if upper(Some(what)) == "GET" => match cluster.known() {
            Some(known) => Then::Reply(Reply::text(known.json.clone())),
            None => Then::Reply(Reply::Null),
        },
        ("TOPOLOGY", [what, json]) if upper(Some(what)) == "SET" => {
            // In a task of its own: a connection that breaks must not leave it half applied.
            let json = json.clone();
            match tokio::spawn(async move { cluster.set_topology(&json).await }).await {
                Ok(Ok(())) => Then::Reply(Reply::ok()),
                Ok(Err(why)) => error(why.to_string()),
                Err(panic) => error(format!("ERR {panic}")),
            }
        }
        ("REGIONS", [what]) if upper(Some(what)) == "GET" => match cluster.known_regions().await {
            Some(known) => Then::Reply(Reply::text(known.json.clone())),
            None => Then::Reply(Reply::Null),
        },
        ("REGIONS", [what, json]) if upper(Some(what)) == "SET" => {
            // As for a topology.
            let json = json.clone();
            match tokio::spawn(async move { cluster.set_regions(&json).await }).await {
                Ok(Ok(())) => Then::Reply(Reply::ok()),
                Ok(Err(why)) => error(why.to_string()),
                Err(panic) => error(format!("ERR {panic}")),
            }
        }
        ("HANDOVER", [member, ms]) => handover(cluster, &text(member), ms).await,
        ("RESUME", []) => {
            cluster.resume();
            Then::Reply(Reply::ok())
        }
        ("MOVE", [what, id, ms]) if upper(Some(what)) == "SEAL" => {
            seal(cluster, &text(id), ms).await
        }
        ("MOVE", [what, id]) if upper(Some(what)) == "UNSEAL" => {
            match export::unseal(&cluster, &text(id)).await {
                Ok(()) => Then::Reply(Reply::ok()),
                Err(why) => error(format!("MOVENOTREADY {why}")),
            }
        }
        ("SLOTSTATS", []) => Then::Reply(watch::json(&cluster.slot_stats())),
        ("SNAPSHOT", [what]) if upper(Some(what)) == "BEGIN" => begin_snapshot(session).await,
        ("SNAPSHOT", [what, id]) => on_snapshot(session, &upper(Some(what)), &text(id)).await,
        ("SYNC", [json]) => match serde_json::from_slice(json) {
            Ok(request) => Then::Sync(request),
            Err(e) => error(format!("ERR SYNC: {e}")),
        },
        ("IMPORT", [json]) => match serde_json::from_slice(json) {
            Ok(request) => Then::Import(request),
            Err(e) => error(format!("ERR IMPORT: {e}")),
        },
        ("PUBLISH", [channel, message]) => {
            let sent = cluster.pubsub.publish(channel, message);
            Then::Reply(Reply::Integer(sent as i64))
        }
        ("SPUBLISH", [channel, message]) => {
            let sent = cluster.pubsub.publish_sharded(channel, message);
            Then::Reply(Reply::Integer(sent as i64))
        }
        ("SHUTDOWN", []) => {
            cluster.request_shutdown();
            Then::Reply(Reply::ok())
        }
        _ => error(format!(
            "ERR CACHE.NODE {sub} with {} arguments is unknown; see docs/protocol.md",
            rest.len()
        )),
    }
}

fn begin_watch(session: &mut Session) -> Then {
    if !session.resp3 {
        return error("ERR WATCH pushes, which RESP3 has only: send HELLO 3 first");
    }
    if session.watch.is_none() {
        let push = watch::push_states(session.cluster.clone(), session.out.clone());
        session.watch = Some(OwnedTask(tokio::spawn(push)));
    }
    Then::Reply(watch::state_reply(&session.cluster))
}

fn milliseconds(word: &Bytes) -> Result<Duration, Then> {
    let ms: Option<u64> = text(word).parse().ok();
    match ms.map(Duration::from_millis) {
        Some(time) if !time.is_zero() && time <= WRITES_PAUSE_MAX => Ok(time),
        _ => Err(error(format!(
            "ERR timeout-ms {:?}: give 1 to {} milliseconds",
            text(word),
            WRITES_PAUSE_MAX.as_millis()
        ))),
    }
}

async fn handover(cluster: Arc<Cluster>, member: &str, ms: &Bytes) -> Then {
    let time = match milliseconds(ms) {
        Ok(time) => time,
        Err(then) => return then,
    };
    match cluster.handover(member, time, time, true).await {
        Ok(at) => Then::Reply(watch::json(
            &json!({"logEpoch": at.epoch, "offset": at.offset}),
        )),
        Err(why) => error(format!("HANDOVERFAILED {why}")),
    }
}

async fn seal(cluster: Arc<Cluster>, id: &str, ms: &Bytes) -> Then {
    let time = match milliseconds(ms) {
        Ok(time) => time,
        Err(then) => return then,
    };
    match export::seal(&cluster, id, time).await {
        Ok((keys, bytes)) => Then::Reply(watch::json(&json!({"keys": keys, "bytes": bytes}))),
        Err(why) => error(format!("MOVENOTREADY {why}")),
    }
}

async fn begin_snapshot(session: &mut Session) -> Then {
    if session.snapshot.as_ref().is_some_and(|s| !s.stat().done) {
        return error("BUSY this connection has a snapshot under way: read it to its end");
    }
    match snapshot::begin(&session.cluster).await {
        Ok(snapshot) => {
            let at = snapshot.position();
            let reply = json!({"id": snapshot.id(), "logEpoch": at.epoch, "offset": at.offset});
            session.snapshot = Some(snapshot);
            Then::Reply(watch::json(&reply))
        }
        Err(why) => error(why),
    }
}

async fn on_snapshot(session: &mut Session, what: &str, id: &str) -> Then {
    let Some(snapshot) = session.snapshot.as_mut().filter(|s| s.id() == id) else {
        return error(format!(
            "SNAPSHOTFAILED this connection has no snapshot {id:?}: a snapshot ends with its connection"
        ));
    };
    match what {
        "STAT" => {
            let stat = snapshot.stat();
            Then::Reply(watch::json(
                &json!({"keys": stat.keys, "bytes": stat.bytes, "done": stat.done}),
            ))
        }
        "READ" => match snapshot.read().await {
            Ok(Some(chunk)) => Then::Reply(Reply::Bulk(chunk)),
            Ok(None) => Then::Reply(Reply::Null),
            Err(why) => {
                session.snapshot = None;
                error(format!("SNAPSHOTFAILED {why}"))
            }
        },
        other => error(format!(
            "ERR SNAPSHOT {other} is unknown: BEGIN, READ or STAT"
        )),
    }
}
