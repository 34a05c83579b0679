//! A multi-threaded cache server that speaks the Redis protocol.

pub mod allocator;
pub mod background;
pub mod blocked;
pub mod cluster;
pub mod command;
pub mod config;
pub mod control;
pub mod lifecycle;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod moves;
pub mod node;
pub mod persist;
pub mod protocol;
pub mod pubsub;
pub mod replicate;
pub mod run;
pub mod server;
pub mod store;
mod sync;
pub mod wakers;
