//! Every limit of the server, in one place.

/// Bytes of one argument at most, as in Redis.
pub const BULK_MAX: usize = 512 * 1024 * 1024;
/// Arguments of one command at most, as in Redis.
pub const ARGS_MAX: usize = 1024 * 1024;
/// Bytes of an inline command, and of the line that gives a length, at most.
pub const INLINE_MAX: usize = 64 * 1024;
/// Arguments of a command before `AUTH`.
pub const UNAUTHENTICATED_ARGS_MAX: usize = 10;
/// Bytes of an argument before `AUTH`.
pub const UNAUTHENTICATED_BULK_MAX: usize = 16 * 1024;

/// Bytes of received commands that wait for execution at most; beyond, the connection is closed.
pub const INPUT_MAX: usize = 1024 * 1024 * 1024;
/// Bytes that are read from one connection before others get their turn.
pub const READ_TURN: usize = 256 * 1024;
/// Bytes that one read takes at most.
pub const READ_MAX: usize = 64 * 1024;
/// An idle connection keeps buffers up to this size.
pub const BUFFER_KEEP: usize = 64 * 1024;
/// Commands that one connection executes before its replies are sent and others get their turn.
pub const COMMANDS_TURN: usize = 1024;

/// Commands that are read ahead of their execution at most, to fetch what they need from memory together.
pub const COMMANDS_AHEAD: usize = 32;

/// Connections that are received for together, to fetch what their commands need from memory together.
pub const CONNECTIONS_TOGETHER: usize = 32;

/// Bytes of replies beyond which a client's further commands wait until it has read some.
pub const OUTPUT_PAUSE: usize = 1024 * 1024;
/// Bytes of replies beyond which a connection is closed: a single command has produced more than its client can take.
pub const OUTPUT_MAX: usize = 2 * 1024 * 1024 * 1024;

/// Connections at most, unless configured.
pub const CLIENTS_MAX: u32 = 10_000;
/// Open files beside connections.
pub const OTHER_FILES: u64 = 128;
/// Bytes of a connection's name, library name and version at most.
pub const CLIENT_NAME_MAX: usize = 16 * 1024;
/// Seconds between probes on an idle connection, unless configured.
pub const KEEPALIVE_S: u32 = 300;

/// Milliseconds that a stopping node gives its clients to take their replies.
pub const DRAIN_MS: u64 = 5_000;

/// Server threads at most.
pub const THREADS_MAX: usize = 128;

/// What `SCAN` takes as COUNT at most in one lock section.
pub const SCAN_SECTION: usize = 4096;
