//! Sockets of the application port.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 511;

/// Listens on an address, also right after another process did.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Small replies go out at once, and a peer that is gone is noticed: probes after `keepalive_s` idle seconds, 0: never.
pub fn prepare(stream: &TcpStream, keepalive_s: u32) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if keepalive_s == 0 {
        return Ok(());
    }
    // As Redis: three more probes in as much time again.
    let interval = Duration::from_secs(u64::from(keepalive_s / 3).max(1));
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(keepalive_s.into()))
        .with_interval(interval)
        .with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
