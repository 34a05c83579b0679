//! The operator of ClusterDB Cache: `observe → validate → plan → build → apply → status`.

pub mod api;
pub mod apply;
pub mod backup;
pub mod build;
pub mod config;
pub mod controller;
pub mod events;
pub mod failpoint;
pub mod health;
pub mod leader;
#[cfg(feature = "local")]
pub mod local;
pub mod metrics;
pub mod node;
pub mod observe;
pub mod plan;
pub mod platform;
pub mod status;
pub mod validate;
