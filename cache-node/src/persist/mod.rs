//! What a node keeps on disk or hands out as files.

pub mod datadir;
pub mod load;
pub mod rdb;
pub mod snapshot;
