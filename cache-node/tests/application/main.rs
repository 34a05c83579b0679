//! The application port, over real sockets: replies beside those of a real redis-server, and what connections may and may not do.

mod administration;
mod cluster;
mod collections;
mod compare;
mod connections;
mod data;
mod debug;
mod generate;
mod process;
mod pubsub;
mod redis;
mod scripts;
mod transactions;
mod usage;
mod wire;
