//! Commands of the control protocol (docs/protocol.md) over a connection of the `redis` crate.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisConnectionInfo, Value,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::api::node_state::{NodeState, SlotStat};
use crate::api::topology::{Topology, WireTopology};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Beyond the time that a command itself may take.
const ANSWER_SLACK: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{member} is not connected")]
    NotConnected { member: String },
    /// The node answered with an error.
    #[error("{code} {message}")]
    Refused { code: String, message: String },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("connection failed: {0}")]
    Connection(String),
    #[error("answer not understood: {0}")]
    Answer(String),
}

impl NodeError {
    /// The node has surely not carried the command out.
    pub fn surely_not_done(&self) -> bool {
        matches!(
            self,
            NodeError::NotConnected { .. } | NodeError::Refused { .. }
        )
    }
}

impl From<redis::RedisError> for NodeError {
    fn from(error: redis::RedisError) -> Self {
        if error.is_timeout() {
            return NodeError::Timeout(ANSWER_TIMEOUT);
        }
        match error.code() {
            Some(code) if !error.is_io_error() => NodeError::Refused {
                code: code.to_string(),
                message: error.detail().unwrap_or_default().to_string(),
            },
            _ => NodeError::Connection(error.to_string()),
        }
    }
}

/// What may be asked of a node, beside `WATCH`.
#[derive(Clone, Debug)]
pub enum Command<'a> {
    TopologyGet,
    TopologySet(&'a WireTopology),
    Handover { to: &'a str, timeout_ms: u64 },
    Resume,
    MoveSeal { id: &'a str, timeout_ms: u64 },
    MoveUnseal { id: &'a str },
    SlotStats,
    RegionsSet { json: &'a str },
}

impl Command<'_> {
    fn packed(&self) -> Cmd {
        let mut cmd = redis::cmd("CACHE.NODE");
        match self {
            Command::TopologyGet => cmd.arg("TOPOLOGY").arg("GET"),
            Command::TopologySet(topology) => cmd.arg("TOPOLOGY").arg("SET").arg(topology.json()),
            Command::Handover { to, timeout_ms } => cmd.arg("HANDOVER").arg(*to).arg(*timeout_ms),
            Command::Resume => cmd.arg("RESUME"),
            Command::MoveSeal { id, timeout_ms } => {
                cmd.arg("MOVE").arg("SEAL").arg(*id).arg(*timeout_ms)
            }
            Command::MoveUnseal { id } => cmd.arg("MOVE").arg("UNSEAL").arg(*id),
            Command::SlotStats => cmd.arg("SLOTSTATS"),
            Command::RegionsSet { json } => cmd.arg("REGIONS").arg("SET").arg(*json),
        };
        cmd
    }

    /// How long to wait for the answer.
    pub fn patience(&self) -> Duration {
        match self {
            Command::Handover { timeout_ms, .. } | Command::MoveSeal { timeout_ms, .. } => {
                Duration::from_millis(*timeout_ms) + ANSWER_SLACK
            }
            _ => ANSWER_TIMEOUT,
        }
    }
}

/// An answer, read as what the command promises.
pub trait Answer: Sized {
    fn read(value: Value) -> Result<Self, NodeError>;
}

/// `OK`, or an answer whose content does not matter.
impl Answer for () {
    fn read(_: Value) -> Result<Self, NodeError> {
        Ok(())
    }
}

impl Answer for Option<Topology> {
    fn read(value: Value) -> Result<Self, NodeError> {
        if value == Value::Nil {
            return Ok(None);
        }
        let topology: WireTopology = json(&value)?;
        Ok(Some(topology.to_topology()))
    }
}

impl Answer for Vec<SlotStat> {
    fn read(value: Value) -> Result<Self, NodeError> {
        json(&value)
    }
}

fn json<T: DeserializeOwned>(value: &Value) -> Result<T, NodeError> {
    let bytes: &[u8] = match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.as_bytes(),
        Value::VerbatimString { text, .. } => text.as_bytes(),
        other => return Err(NodeError::Answer(format!("{other:?} is not JSON"))),
    };
    serde_json::from_slice(bytes).map_err(|error| NodeError::Answer(error.to_string()))
}

pub async fn call<A: Answer>(
    connection: &mut MultiplexedConnection,
    command: &Command<'_>,
) -> Result<A, NodeError> {
    let patience = command.patience();
    connection.set_response_timeout(patience);
    let sent = connection.send_packed_command(&command.packed()).await;
    let value = sent.map_err(|error| match error.is_timeout() {
        true => NodeError::Timeout(patience),
        false => error.into(),
    })?;
    match value {
        Value::ServerError(error) => Err(NodeError::Refused {
            code: error.code().to_string(),
            message: error.details().unwrap_or_default().to_string(),
        }),
        value => A::read(value),
    }
}

/// A connection on which the node tells its state.
pub struct Watched {
    pub connection: MultiplexedConnection,
    pub first: NodeState,
    pub pushes: mpsc::UnboundedReceiver<PushInfo>,
}

/// Connects, authenticates, and begins to watch.
pub async fn watch(host: &str, port: u16, password: &str) -> Result<Watched, NodeError> {
    let settings = RedisConnectionInfo::default()
        .set_username("default")
        .set_password(password)
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    let info = ConnectionAddr::Tcp(host.to_string(), port)
        .into_connection_info()?
        .set_redis_settings(settings);
    let (sender, pushes) = mpsc::unbounded_channel();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT))
        .set_push_sender(sender);
    let mut connection = Client::open(info)?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut cmd = redis::cmd("CACHE.NODE");
    let answer = connection.send_packed_command(cmd.arg("WATCH")).await?;
    Ok(Watched {
        first: json(&answer)?,
        connection,
        pushes,
    })
}

/// The state in a push, if it is one.
pub fn pushed_state(push: &PushInfo) -> Option<Result<NodeState, NodeError>> {
    match &push.kind {
        redis::PushKind::Other(kind) if kind == "node.state" => {}
        _ => return None,
    }
    let state = push.data.first().map(json);
    Some(state.unwrap_or_else(|| Err(NodeError::Answer("node.state without a state".into()))))
}
