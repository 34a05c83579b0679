//! What is counted, and how it is told: `INFO`, and over HTTP to Prometheus.

mod exposition;
pub mod http;
pub mod process;
pub mod stats;
