//! The operator's pure parts: plans over simulated worlds, golden scripts, and what is generated from `src/api`.

mod crash;
mod generated;
mod golden;
mod manifests;
mod rules;
mod seeds;
mod stories;
mod world;
