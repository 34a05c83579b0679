//! Keeps one control connection to one member, and says when it is there, what is heard, and when it is lost.

use std::time::Duration;

use rand::Rng;
use redis::PushKind;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::client::{self, NodeError};
use super::hub::Target;
use crate::api::node_state::NodeState;

/// Nodes speak every second; three silences are a loss.
const SILENCE_MAX: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What happens on a link.
pub enum LinkEvent {
    /// Boxed, as the others are small.
    Connected(MultiplexedConnection, Box<NodeState>),
    Heard(Box<NodeState>),
    Lost(NodeError),
}

/// Where to connect to and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    pub target: Target,
    pub password: String,
}

/// Runs until the sender of `dial` is dropped.
pub async fn run(
    member: String,
    mut dial: watch::Receiver<Dial>,
    tell: impl Fn(LinkEvent) + Send + 'static,
) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let now = dial.borrow_and_update().clone();
        let Some(address) = now.target.address.clone() else {
            if dial.changed().await.is_err() {
                return;
            }
            backoff = BACKOFF_MIN;
            continue;
        };
        let ended = tokio::select! {
            changed = moved(&mut dial, &now) => match changed {
                Some(()) => { backoff = BACKOFF_MIN; continue_after_move(&tell); continue; }
                None => return,
            },
            ended = hold(&member, &address, &now, &tell) => ended,
        };
        if ended.was_connected {
            backoff = BACKOFF_MIN;
        }
        tracing::debug!(member, address, error = %ended.error, "no control connection");
        tell(LinkEvent::Lost(ended.error));
        let pause = jittered(backoff);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            changed = moved(&mut dial, &now) => match changed {
                Some(()) => backoff = BACKOFF_MIN,
                None => return,
            },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn continue_after_move(tell: &impl Fn(LinkEvent)) {
    tell(LinkEvent::Lost(NodeError::Connection(
        "the member has another address now".into(),
    )));
}

/// Resolves when another address or password is to be dialled (`Some`) or the link is given up (`None`).
async fn moved(dial: &mut watch::Receiver<Dial>, now: &Dial) -> Option<()> {
    let differs = |next: &Dial| {
        next.target.address != now.target.address
            || next.target.control_port != now.target.control_port
            || next.password != now.password
    };
    dial.wait_for(differs).await.ok().map(|_| ())
}

struct Ended {
    was_connected: bool,
    error: NodeError,
}

/// Connects and listens until the connection ends.
async fn hold(member: &str, address: &str, dial: &Dial, tell: &impl Fn(LinkEvent)) -> Ended {
    let port = dial.target.control_port;
    let mut watched = match client::watch(address, port, &dial.password).await {
        Ok(watched) => watched,
        Err(error) => {
            return Ended {
                was_connected: false,
                error,
            };
        }
    };
    if watched.first.member != member {
        let message = format!("{address} is member {:?}", watched.first.member);
        return Ended {
            was_connected: false,
            error: NodeError::Answer(message),
        };
    }
    tell(LinkEvent::Connected(
        watched.connection,
        Box::new(watched.first),
    ));
    let error = loop {
        match tokio::time::timeout(SILENCE_MAX, watched.pushes.recv()).await {
            Err(_) => break NodeError::Timeout(SILENCE_MAX),
            Ok(None) => break NodeError::Connection("closed".into()),
            Ok(Some(push)) if push.kind == PushKind::Disconnection => {
                break NodeError::Connection("closed by the node".into());
            }
            Ok(Some(push)) => match client::pushed_state(&push) {
                Some(Ok(state)) => tell(LinkEvent::Heard(Box::new(state))),
                Some(Err(error)) => break error,
                None => {}
            },
        }
    };
    Ended {
        was_connected: true,
        error,
    }
}

/// Between half of and the whole pause, so that many links do not dial in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}
