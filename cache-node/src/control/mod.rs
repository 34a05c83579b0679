//! The control port: how the operator, `cachectl` and other nodes talk to this one (docs/protocol.md).

pub mod client;
mod commands;
mod connection;
pub mod resp;
mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::cluster::Cluster;
use crate::limits::CONTROL_CONNECTIONS_MAX;

/// Serves the control port until the runtime ends.
pub async fn serve(cluster: Arc<Cluster>, listener: TcpListener) -> io::Result<()> {
    // A node without a credential would let everybody push topologies.
    cluster.password()?;
    let room = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: others must be closed first.
                tracing::warn!(%error, "control port: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(seat) = room.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "control port: {CONTROL_CONNECTIONS_MAX} connections are open; closed another");
            continue;
        };
        let cluster = cluster.clone();
        tokio::spawn(async move {
            if let Err(error) = connection::run(cluster, stream).await {
                tracing::debug!(%peer, %error, "control connection ended");
            }
            drop(seat);
        });
    }
}
