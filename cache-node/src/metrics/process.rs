//! What the kernel says of this process.

use std::fs;

/// Bytes of resident memory; 0 where the kernel does not tell.
pub fn resident_bytes() -> u64 {
    // The file gives kB, whatever the size of a page.
    const KB: u64 = 1024;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kb = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kb.unwrap_or(0) * KB
}

/// Seconds of processor time, user and system.
pub fn cpu_seconds() -> (f64, f64) {
    /// Ticks a second, which Linux fixes for `/proc` at 100.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold blanks.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after.split_whitespace().collect();
    let seconds = |i: usize| -> f64 {
        let ticks: f64 = fields.get(i).and_then(|t| t.parse().ok()).unwrap_or(0.0);
        ticks / TICKS
    };
    (seconds(11), seconds(12))
}

/// Open file descriptors.
pub fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        assert!(resident_bytes() > 1 << 20);
        let (user, system) = cpu_seconds();
        assert!(user >= 0.0 && system >= 0.0);
        assert!(open_files() >= 3);
    }
}
