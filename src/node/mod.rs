//! The adapter to nodes: one held control connection (`CACHE.NODE WATCH`) a member, commands over it, and what is remembered of each member.

mod client;
mod hub;
mod link;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

pub use client::{Command, NodeError};
pub use hub::{Hub, MemberView, Target};

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
