//! The life of the process: opens the ports, waits for the word to stop, hands over, drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::background::{Accounts, Background};
use crate::config::Config;
use crate::limits::OTHER_FILES;
use crate::node::{Node, StartError};
use crate::server::{Server, ServerError};
use crate::{control, lifecycle, metrics};

/// Threads for everything that is not the application port.
const CONTROL_THREADS: usize = 2;

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(
        "cannot listen on {address} ({flag}): {error}; choose another address or port, or end the process that has it"
    )]
    Listen {
        flag: &'static str,
        address: SocketAddr,
        error: io::Error,
    },
    #[error("the operating system refused what the node needs: {0}")]
    System(#[from] io::Error),
}

/// Runs a node until it is told to stop. The configuration is valid.
pub fn run(config: Config) -> Result<(), RunError> {
    raise_file_limit(config.max_clients);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let node = Arc::new(Node::new(config)?);
    let background = Background::start(node.clone(), Accounts::Process)?;
    let mut signals = {
        let _in_runtime = runtime.enter();
        Signals::new()?
    };
    let clients = node.clone();
    node.cluster
        .count_clients_by(move || clients.clients.len() as u64);
    runtime.block_on(open_side_ports(&node))?;
    let server = Server::start(&node)?;
    runtime.spawn(give_credit(node.clone()));
    runtime.spawn(lifecycle::join(
        node.cluster.clone(),
        node.config.topology_file.clone(),
    ));
    announce(&node, &server);
    let why = runtime.block_on(told_to_stop(&node, &mut signals));
    tracing::info!(why, "stopping");
    stop(&runtime, &node, server, background, signals);
    Ok(())
}

/// Hands over, then drains. A second signal ends the process at once.
fn stop(
    runtime: &Runtime,
    node: &Arc<Node>,
    server: Server,
    background: Background,
    mut signals: Signals,
) {
    runtime.spawn(async move {
        signals.next().await;
        tracing::warn!("told again to stop: ending at once");
        std::process::exit(1);
    });
    if node.is_cluster() {
        runtime.block_on(lifecycle::shutdown(
            &node.cluster,
            node.config.shutdown_grace(),
        ));
    }
    server.drain();
    background.stop();
    tracing::info!("stopped");
}

fn announce(node: &Node, server: &Server) {
    if node.passwords.is_none() && !server.address().ip().is_loopback() {
        tracing::warn!(
            "everybody who reaches the application port may use it: give --password-file"
        );
    }
    tracing::info!(
        address = %server.address(),
        threads = node.config.threads(),
        max_memory = node.config.max_memory,
        cluster = node.is_cluster(),
        member = node.config.member(),
        version = env!("CARGO_PKG_VERSION"),
        "ready for connections"
    );
}

/// Each connection is an open file.
fn raise_file_limit(clients: u32) {
    let wanted = u64::from(clients) + OTHER_FILES;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit < wanted => {
            tracing::warn!(
                limit,
                wanted,
                "fewer connections than --max-clients are possible: raise the limit of open files (ulimit -n)"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// The control port and the metrics port, where they are wanted.
async fn open_side_ports(node: &Arc<Node>) -> Result<(), RunError> {
    let config = &node.config;
    if config.control_password_file.is_some() {
        let address = SocketAddr::new(config.control_bind(), config.control_port());
        let listener = listen(node, "control", "--control-port", address).await?;
        let cluster = node.cluster.clone();
        tokio::spawn(async move {
            if let Err(error) = control::serve(cluster, listener).await {
                tracing::error!(%error, "the control port is closed");
            }
        });
    }
    if config.metrics_port() != 0 {
        let address = SocketAddr::new(config.metrics_bind(), config.metrics_port());
        let listener = listen(node, "metrics", "--metrics-port", address).await?;
        let node = node.clone();
        tokio::spawn(async move {
            if let Err(error) = metrics::http::serve(node, listener).await {
                tracing::error!(%error, "the metrics port is closed");
            }
        });
    }
    Ok(())
}

async fn listen(
    node: &Node,
    name: &'static str,
    flag: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, RunError> {
    let failed = |error| RunError::Listen {
        flag,
        address,
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr()?;
    node.addresses.lock().insert(name, address);
    tracing::info!(%address, "{name} port is open");
    Ok(listener)
}

/// Wakes connections that wait for the log's credit when there is some again.
async fn give_credit(node: Arc<Node>) {
    loop {
        node.credit_wanted.notified().await;
        while !node.log.has_credit() {
            node.log.settle().await;
            // A copy that is too slow holds credit back too, and tells nobody when it is not.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.wakers.wake_all();
    }
}

/// Waits until a signal, a client or the control port says to stop. Gives which.
async fn told_to_stop(node: &Node, signals: &mut Signals) -> &'static str {
    let mut control = node.cluster.shutdown_requested();
    tokio::select! {
        name = signals.next() => name,
        () = node.shutdown_wanted.notified() => "SHUTDOWN",
        // The sender lives as long as the node.
        _ = control.wait_for(|&wanted| wanted) => "CACHE.NODE SHUTDOWN",
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
