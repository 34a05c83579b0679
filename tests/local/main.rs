//! Faults on one machine: real `cache-node` processes under local mode's loop, a real cluster client, real kills.
//!
//! They need the server program: `cargo build -p cache-node` first, or name it in `CACHE_NODE_BIN`.
#![cfg(feature = "local")]

mod backup;
mod boundaries;
mod faults;
mod harness;
mod load;
mod maintenance;
mod regions;
mod scale;
