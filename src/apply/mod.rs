//! `apply`: carries a plan out. [`steps`] is the same on every platform; [`kube`] writes to the API server.

pub mod kube;
pub mod steps;

pub use steps::{Applied, run};
