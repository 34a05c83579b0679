//! The controllers: what is reconciled when, and how often it is tried again.

pub mod backup;
mod backup_plan;
pub mod cache;
pub mod context;
pub mod driver;
mod platform;
pub mod queue;
pub mod region;
mod run;

pub use context::Context;
pub use run::run;
