//! A node for tests: a small RESP3 server of the control protocol that tells what it is told to, and notes what it is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Target;
use crate::api::node_state::NodeState;

pub const PASSWORD: &str = "pepper";

pub struct FakeNode {
    pub port: u16,
    state: watch::Sender<NodeState>,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    /// Dropping it ends all connections.
    life: watch::Sender<()>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<String>>,
    /// Raw replies to `CACHE.NODE` commands, by their first words; others are answered OK.
    replies: Mutex<BTreeMap<String, String>>,
}

pub fn state(member: &str, data_id: &str, epoch: u64) -> NodeState {
    NodeState {
        member: member.into(),
        data_id: data_id.into(),
        epoch,
        ..NodeState::default()
    }
}

impl FakeNode {
    pub async fn start(first: NodeState) -> FakeNode {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, seen) = watch::channel(first);
        let shared: Arc<Shared> = Arc::default();
        let (life, alive) = watch::channel(());
        let server = tokio::spawn(serve(listener, seen, shared.clone(), alive));
        FakeNode {
            port,
            state,
            shared,
            server,
            life,
        }
    }

    /// Tells a new state to whoever watches.
    pub fn tell(&self, state: NodeState) {
        self.state.send_replace(state);
    }

    pub fn reply(&self, command: &str, raw: &str) {
        let mut replies = self.shared.replies.lock().unwrap();
        replies.insert(command.into(), raw.into());
    }

    /// `CACHE.NODE` commands so far but `WATCH`, without that word, cut before JSON.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Closes all connections; new ones are accepted.
    pub fn cut(&mut self) {
        self.life.send_replace(());
    }

    pub fn target(&self, process: &str) -> Target {
        Target {
            address: Some("127.0.0.1".into()),
            control_port: self.port,
            process: Some(process.into()),
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.server.abort();
        self.life.send_replace(());
    }
}

async fn serve(
    listener: TcpListener,
    state: watch::Receiver<NodeState>,
    shared: Arc<Shared>,
    life: watch::Receiver<()>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (state, shared, mut life) = (state.clone(), shared.clone(), life.clone());
        life.mark_unchanged();
        tokio::spawn(async move {
            tokio::select! {
                _ = life.changed() => {}
                () = converse(stream, state, shared) => {}
            }
        });
    }
}

async fn converse(stream: TcpStream, mut state: watch::Receiver<NodeState>, shared: Arc<Shared>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut watching = false;
    loop {
        tokio::select! {
            words = command(&mut read) => {
                let Some(words) = words else { return };
                answer(&words, &mut write, &mut state, &shared, &mut watching).await;
            }
            changed = state.changed(), if watching => {
                if changed.is_err() { return }
                let json = serde_json::to_string(&*state.borrow_and_update()).unwrap();
                let push = format!(">2\r\n$10\r\nnode.state\r\n${}\r\n{json}\r\n", json.len());
                if write.write_all(push.as_bytes()).await.is_err() { return }
            }
        }
    }
}

async fn answer(
    words: &[String],
    write: &mut OwnedWriteHalf,
    state: &mut watch::Receiver<NodeState>,
    shared: &Shared,
    watching: &mut bool,
) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let raw = match words.as_slice() {
        ["HELLO", "3", "AUTH", "default", PASSWORD, ..] => "%1\r\n+proto\r\n:3\r\n".to_string(),
        ["HELLO", ..] => "-WRONGPASS not the control port's password\r\n".into(),
        ["CACHE.NODE", "WATCH"] => {
            *watching = true;
            let json = serde_json::to_string(&*state.borrow_and_update()).unwrap();
            format!("${}\r\n{json}\r\n", json.len())
        }
        ["CACHE.NODE", rest @ ..] => {
            let plain: Vec<&str> = rest
                .iter()
                .filter(|word| !word.starts_with('{'))
                .copied()
                .collect();
            let text = plain.join(" ");
            let replies = shared.replies.lock().unwrap();
            let reply = replies.iter().find(|(words, _)| text.starts_with(*words));
            let reply = reply.map_or("+OK\r\n".into(), |(_, raw)| raw.clone());
            shared.asked.lock().unwrap().push(text);
            reply
        }
        _ => "+OK\r\n".into(),
    };
    // A reader that is gone needs no answer.
    let _ = write.write_all(raw.as_bytes()).await;
}

/// One RESP array of bulk strings.
async fn command(read: &mut BufReader<OwnedReadHalf>) -> Option<Vec<String>> {
    let mut line = String::new();
    if read.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let count: usize = line.trim().strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        line.clear();
        read.read_line(&mut line).await.ok()?;
        let length: usize = line.trim().strip_prefix('$')?.parse().ok()?;
        let mut bytes = vec![0; length + 2];
        read.read_exact(&mut bytes).await.ok()?;
        words.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
    }
    Some(words)
}
