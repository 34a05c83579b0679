//! Starts the threads, takes connections, and hands each to the thread that has the fewest.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::socket;
use super::thread::{Inbox, Thread};
use crate::node::Node;

const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
/// How long no connection is accepted after one could not be: descriptors are out, others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the application port does not open.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(
        "cannot listen on {address}: {error}; choose another --bind or --port, or end the process that has it"
    )]
    Listen {
        address: SocketAddr,
        error: io::Error,
    },
    #[error("cannot start the server's threads: {0}")]
    Start(#[from] io::Error),
}

/// The running threads of the application port.
pub struct Server {
    node: Arc<Node>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the port and starts the threads.
    pub fn start(node: &Arc<Node>) -> Result<Self, ServerError> {
        let address = SocketAddr::new(node.config.bind, node.config.port);
        let listener =
            socket::listen(address).map_err(|error| ServerError::Listen { address, error })?;
        let address = listener.local_addr()?;
        node.addresses.lock().insert("application", address);
        let mut threads = Vec::new();
        let mut inboxes = Vec::new();
        for i in 0..node.config.threads() {
            let thread = Thread::new(node.clone())?;
            inboxes.push(thread.inbox());
            let name = format!("server-{i}");
            threads.push(
                std::thread::Builder::new()
                    .name(name)
                    .stack_size(crate::limits::STACK_BYTES)
                    .spawn(move || thread.run())?,
            );
        }
        let acceptor = Acceptor::new(node.clone(), listener, inboxes)?;
        let name = "acceptor".to_owned();
        threads.push(
            std::thread::Builder::new()
                .name(name)
                .spawn(move || acceptor.run())?,
        );
        Ok(Self {
            node: node.clone(),
            address,
            threads,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, executes what has been received, sends the replies, and ends. Waits for that, within limits.
    pub fn drain(self) {
        self.node.stopping.store(true, Ordering::Release);
        self.node.wakers.wake_all();
        for thread in self.threads {
            if thread.join().is_err() {
                // It has said so on standard error.
                tracing::error!("a server thread had panicked");
            }
        }
    }
}

struct Acceptor {
    node: Arc<Node>,
    poll: Poll,
    listener: TcpListener,
    inboxes: Vec<Arc<Inbox>>,
    next: usize,
}

impl Acceptor {
    fn new(
        node: Arc<Node>,
        mut listener: TcpListener,
        inboxes: Vec<Arc<Inbox>>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        node.wakers
            .add(Arc::new(Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            node,
            poll,
            listener,
            inboxes,
            next: 0,
        })
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(4);
        let mut pause = None;
        while !self.node.is_stopping() {
            match self.poll.poll(&mut events, pause) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the acceptor cannot wait for connections; taking no more");
                    return;
                }
            }
            if pause.is_some() || events.iter().any(|event| event.token() == LISTENER) {
                pause = self.accept_all().err().map(|error| {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    ACCEPT_PAUSE
                });
            }
        }
    }

    fn accept_all(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, address)) => self.hand_out(stream, address),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn hand_out(&mut self, mut stream: TcpStream, address: SocketAddr) {
        let stats = &self.node.stats;
        stats.connections.fetch_add(1, Ordering::Relaxed);
        let settings = &self.node.settings;
        if self.node.clients.len() >= settings.max_clients.load(Ordering::Relaxed) as usize {
            stats.rejected_connections.fetch_add(1, Ordering::Relaxed);
            // The connection ends either way.
            let _ = stream.write(b"-ERR max number of clients reached\r\n");
            return;
        }
        if let Err(error) = socket::prepare(&stream, settings.keepalive_s.load(Ordering::Relaxed)) {
            tracing::debug!(%error, %address, "a connection was gone before it was taken");
            return;
        }
        let local = stream.local_addr().unwrap_or(address);
        let client = self.node.clients.add(address, local, crate::node::now_ms());
        let open: Vec<usize> = self.inboxes.iter().map(|inbox| inbox.open()).collect();
        let thread = fewest(&open, self.next);
        self.inboxes[thread].put(stream, client);
        self.next = (thread + 1) % self.inboxes.len();
    }
}

/// Which thread has the fewest connections; of several the first from `next` on, so that they take turns.
fn fewest(open: &[usize], next: usize) -> usize {
    let from_next = (0..open.len()).map(|i| (next + i) % open.len());
    from_next.min_by_key(|&i| open[i]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_evenly() {
        for (open, next, thread) in [
            (&[0, 0, 0][..], 0, 0),
            (&[0, 0, 0], 2, 2),
            (&[1, 0, 0], 0, 1),
            (&[5, 4, 4], 2, 2),
            (&[5, 4, 4], 0, 1),
            (&[9, 9, 3], 0, 2),
            (&[7], 0, 0),
        ] {
            assert_eq!(fewest(open, next), thread, "{open:?} from {next}");
        }
        // Whoever leaves, the next ones fill the gaps.
        let (mut open, mut next) = ([50, 2, 0, 30], 0);
        for _ in 0..118 {
            let thread = fewest(&open, next);
            open[thread] += 1;
            next = (thread + 1) % open.len();
        }
        assert_eq!(open, [50; 4]);
    }
}
