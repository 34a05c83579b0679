//! WATCH: pushes the node's state on change and as a heartbeat.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::resp::Reply;
use crate::cluster::Cluster;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Changes within it are one push.
const COALESCE: Duration = Duration::from_millis(50);

/// Counts as an operator's presence while it lives.
struct Presence(Arc<Cluster>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.watch_opened(-1);
    }
}

/// Pushes until the connection ends. Marks the watch as open before the first await.
pub fn push_states(
    cluster: Arc<Cluster>,
    out: mpsc::Sender<Vec<u8>>,
) -> impl Future<Output = ()> + Send {
    cluster.watch_opened(1);
    let presence = Presence(cluster.clone());
    let mut changes = cluster.changes();
    async move {
        let _presence = presence;
        loop {
            // The sender lives as long as `cluster`.
            if let Ok(Ok(())) = timeout(HEARTBEAT, changes.changed()).await {
                sleep(COALESCE).await;
            }
            changes.borrow_and_update();
            let mut bytes = Vec::new();
            Reply::Push(vec![Reply::text("node.state"), state_reply(&cluster)])
                .write(&mut bytes, true);
            if out.send(bytes).await.is_err() {
                return;
            }
        }
    }
}

/// The state as a bulk of JSON.
pub fn state_reply(cluster: &Cluster) -> Reply {
    json(&cluster.state())
}

pub fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(bytes) => Reply::Bulk(bytes),
        // Plain data with string keys always serializes; a failure is still told.
        Err(error) => Reply::Error(format!("ERR {error}")),
    }
}
