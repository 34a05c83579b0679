//! In which order the locks of several domains are taken.

/// Ascending, each once: of two who want some of the same locks, none waits for one that the other holds while holding one that it wants.
pub fn ascending(mut domains: Vec<usize>) -> Vec<usize> {
    domains.sort_unstable();
    domains.dedup();
    domains
}
