//! Every limit of the server, in one place.

use std::time::Duration;

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
/// The same on the control port, where nothing long is said before it.
pub const CONTROL_UNAUTHENTICATED_BULK_MAX: usize = 4 * 1024;

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

/// As in Redis, unless configured: bytes of messages that wait for a client beyond which it is closed; at once, and after so many seconds.
pub const PUBSUB_OUTPUT_HARD: u64 = 32 << 20;
pub const PUBSUB_OUTPUT_SOFT: u64 = 8 << 20;
pub const PUBSUB_OUTPUT_SOFT_S: u64 = 60;
/// Bytes of messages on their way to another node beyond which further ones are lost.
pub const BUS_QUEUE_MAX: usize = 32 << 20;
/// Bytes of messages that are sent to another node together.
pub const BUS_BATCH: usize = 256 * 1024;

/// Commands that took so many microseconds are kept, and how many of them, unless configured.
pub const SLOWLOG_US: i64 = 10_000;
pub const SLOWLOG_LENGTH: u64 = 128;
/// And at most.
pub const SLOWLOG_LENGTH_MAX: u64 = 100_000;
/// What is kept of such a command: arguments, and bytes of each.
pub const SLOWLOG_ARGS: usize = 32;
pub const SLOWLOG_ARG_BYTES: usize = 128;
/// Seconds of which an event's longest time is kept.
pub const LATENCY_SAMPLES: usize = 160;
/// The longest that `DEBUG SLEEP` holds its thread.
pub const DEBUG_SLEEP_MAX: Duration = Duration::from_secs(60);

/// Connections at most, unless configured.
pub const CLIENTS_MAX: u32 = 10_000;
/// Open files beside connections.
pub const OTHER_FILES: u64 = 128;
/// Bytes of a connection's name, library name and version at most.
pub const CLIENT_NAME_MAX: usize = 16 * 1024;
/// Seconds between probes on an idle connection, unless configured.
pub const KEEPALIVE_S: u32 = 300;

/// Bytes of a text that `DEBUG STRINGMATCH-LEN` makes at most.
pub const DEBUG_TEXT_MAX: usize = 1 << 20;

/// Bytes of a sparse HyperLogLog at most, unless configured, as in Redis.
pub const HLL_SPARSE_MAX: u64 = 3000;

/// Milliseconds that a stopping node gives its clients to take their replies.
pub const DRAIN_MS: u64 = 5_000;

/// Server threads at most.
pub const THREADS_MAX: usize = 128;

/// What `SCAN` takes as COUNT at most in one lock section.
pub const SCAN_SECTION: usize = 4096;

/// Bytes of the log in memory for those who come back, unless configured; a small node keeps a part of its own size, see
/// [`LOG_BACKLOG_SHARE`].
pub const LOG_BACKLOG: u64 = 64 << 20;
/// The backlog's part of `--max-memory`, one in so many. What waits for the log and for copies of slots has the backlog's size too, and all
/// of it must fit beside the store.
pub const LOG_BACKLOG_SHARE: u64 = 16;
/// What a small node keeps nevertheless.
pub const LOG_BACKLOG_SMALL: u64 = 1 << 20;
/// And at least: less would hold no record of ordinary size.
pub const LOG_BACKLOG_MIN: u64 = 16 << 10;
/// Bytes written and not yet in the log beyond which writers wait, so that a burst does not outrun its one merger without bound; the
/// backlog's size where that is less.
pub const LOG_CREDIT: usize = 64 << 20;
/// Bytes that a copy of slots has ready beyond which it copies no more until some are sent; a quarter of the backlog's size where that is
/// less.
pub const COPY_PAUSE: usize = 16 << 20;
/// Bytes beyond which writers wait too: what they write comes on top of the copy; the backlog's size where that is less.
pub const COPY_THROTTLE: usize = 64 << 20;
/// Bytes beyond which the copy is given up, one value of the largest size aside: whoever takes it has stopped.
pub const COPY_MAX: usize = 256 << 20;
/// Bytes of a frame between nodes at most: a value of [`BULK_MAX`], its key and the words around them fit.
pub const FRAME_MAX: usize = 1100 << 20;

/// Bytes of a snapshot that are ready beyond which its walk waits.
pub const SNAPSHOT_BUFFER: usize = 8 << 20;
/// Bytes beyond which it fails, one value of the largest size aside: writers emit what they change and wait for no reader.
pub const SNAPSHOT_BUFFER_MAX: usize = 256 << 20;
/// Bytes of a snapshot's chunk at most: what a reader asks for at once.
pub const SNAPSHOT_CHUNK: usize = 1 << 20;

/// Connections to the control port at once: operators, tools, and a few for each other node.
pub const CONTROL_CONNECTIONS_MAX: usize = 512;
/// Arguments of a command of the control port: none has nearly as many.
pub const CONTROL_ARGS_MAX: usize = 64;
/// Bytes of a line on the control port: an error's text is the longest.
pub const CONTROL_LINE_MAX: usize = 64 * 1024;
/// Nested arrays in a reply of a control port: reading them takes stack.
pub const CONTROL_DEPTH_MAX: usize = 4;
/// The longest a handover or a seal may hold writes back.
pub const WRITES_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Bytes of a topology's JSON: room for all shards and moves that the operator makes.
pub const TOPOLOGY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Shards of a topology.
pub const SHARDS_MAX: usize = 1024;
/// Members of a shard.
pub const MEMBERS_MAX: usize = 64;
/// Bytes of a name or host in a topology: those of a DNS name.
pub const NAME_MAX: usize = 253;

/// Bytes of a list of regions in JSON.
pub const REGIONS_BYTES_MAX: usize = 256 * 1024;
/// Regions of a Cache: a node tells the figures of each with its state.
pub const REGIONS_MAX: usize = 128;
/// Bytes of a region's prefix.
pub const REGION_PREFIX_MAX: usize = 256;
/// Bytes of a region: 1 Pi.
pub const REGION_SIZE_MAX: u64 = 1 << 50;
/// Milliseconds of a default expiry: ten years.
pub const REGION_TTL_MAX_MS: u64 = 10 * 366 * 86_400_000;

/// Lines of a password file: the present password and those being rotated out; each attempt is compared with all.
pub const PASSWORDS_MAX: usize = 16;

/// Bytes of the largest value that is compressed: beyond, what compressing needs beside it would be too much at once.
pub const COMPRESSION_VALUE_MAX: usize = 64 << 20;
/// The highest level of zstd: those beyond take hundreds of MiB to compress one value.
pub const COMPRESSION_LEVEL_MAX: u8 = 12;
/// Bytes of the smallest value that is compressed, unless configured.
pub const COMPRESSION_MIN_SIZE: u32 = 256;
/// Bytes of a buffer for compressed values that a thread keeps.
pub const COMPRESSION_BUFFER_KEEP: usize = 64 * 1024;
/// Bytes of what zstd keeps for the next value of a thread.
pub const COMPRESSION_CONTEXT_KEEP: usize = 1 << 20;

/// Bytes of the scripts that a node knows; those that were only evaluated make room for others.
pub const SCRIPTS_BYTES_MAX: usize = 16 << 20;
/// Scripts that are remembered because they were evaluated; loaded ones stay until a flush.
pub const SCRIPTS_EVALUATED_MAX: usize = 500;
/// Compiled scripts that a thread keeps.
pub const SCRIPT_FUNCTIONS_MAX: usize = 1024;
/// Bytes that the Lua state of a thread takes at most; on a small node a part of its memory, see [`SCRIPT_MEMORY_SHARE`].
pub const SCRIPT_MEMORY_MAX: u64 = 256 << 20;
/// The part of `--max-memory` that the Lua states of all threads may take, one in so many.
pub const SCRIPT_MEMORY_SHARE: u64 = 8;
/// What a state may take nevertheless: less would hold no script.
pub const SCRIPT_MEMORY_MIN: u64 = 2 << 20;
/// Bytes beyond which a state is collected after a script, and replaced if that does not help.
pub const SCRIPT_MEMORY_KEEP: usize = 4 << 20;
/// Milliseconds after which a script takes long, unless configured: others are answered BUSY, and `SCRIPT KILL` ends it.
pub const SCRIPT_BUSY_MS: u64 = 5_000;
/// The longest a script may run, whatever it did: a node that makes no progress for 30 s is taken for dead.
pub const SCRIPT_TIME_MAX: Duration = Duration::from_secs(20);
/// Instructions of Lua between two looks at the time.
pub const SCRIPT_HOOK_INSTRUCTIONS: u32 = 100_000;
/// Stack of a thread that executes commands, of which memory is what was ever used.
pub const STACK_BYTES: usize = 8 * 1024 * 1024;
/// Tables within tables that a script returns, packs or unpacks: each takes stack, and where little is left fewer are taken.
pub const SCRIPT_DEPTH_MAX: usize = 1_000;
/// Values that a script unpacks at once: each takes a place on Lua's stack.
pub const SCRIPT_RESULTS_MAX: usize = 4_000;

/// Different first words of errors that a thread counts by themselves, as in Redis.
pub const ERROR_CODES_MAX: usize = 128;

/// Items that a sampled policy looks at to evict one, and places at most.
pub const EVICTION_SAMPLES: usize = 20;
