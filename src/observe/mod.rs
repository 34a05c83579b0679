//! `observe`: what the API server holds, kept in memory by watches, and turned into the planner's plain data.

pub mod index;
pub mod members;
pub mod stores;
pub mod watch;

pub use index::Index;
pub use stores::Stores;
