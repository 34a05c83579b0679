//! The Redis protocol, RESP2 and RESP3: bytes to commands, replies to bytes. Knows nothing of the rest.

pub mod double;
pub mod frames;
pub mod inline;
pub mod number;
pub mod output;
pub mod parse;
pub mod reply;
pub mod words;

pub use frames::Frames;
pub use output::Output;
pub use parse::{Args, Parser, Progress, ProtocolError};
pub use reply::Reply;
pub use words::Words;
