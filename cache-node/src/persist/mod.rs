//! What a node keeps on disk or hands out as files.

pub mod datadir;
pub mod rdb;
pub mod snapshot;
