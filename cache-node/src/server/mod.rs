//! The application port: threads that each run their connections to completion.

mod acceptor;
mod clock;
mod connection;
pub mod mail;
pub mod output_limit;
pub mod registry;
mod socket;
mod thread;
mod turn;

pub use acceptor::{Server, ServerError};
