//! The C library's allocator, told not to keep what is freed: items have pages of their own, so little is left for it.

/// Bytes from which an allocation is a mapping of its own, which goes back to the kernel when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: i32 = 256 * 1024;
/// Bytes free at the end of a heap that go back to the kernel.
#[cfg(target_env = "gnu")]
const TRIM_FROM: i32 = 512 * 1024;
/// Heaps at most: each keeps its own holes.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 4;

/// Called before any thread is started.
pub fn configure() {
    // SAFETY: these calls set numbers.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_FROM);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}
