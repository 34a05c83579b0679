//! How many processors this process may use: the cgroup's quota, version 2 or 1, else the cores.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

/// Processors by quota and cores, at least 1; a part of one counts as one.
pub fn processors() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match quota(&membership, Path::new("/sys/fs/cgroup")) {
        Some(quota) => (quota.ceil() as usize).clamp(1, cores),
        None => cores,
    }
}

/// The smallest quota on the path from this process's cgroup to the root, in processors.
fn quota(membership: &str, root: &Path) -> Option<f64> {
    let mut least: Option<f64> = None;
    for line in membership.lines() {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let read: fn(&Path) -> Option<f64>;
        let bases: Vec<PathBuf>;
        if controllers.is_empty() {
            (read, bases) = (version2, vec![root.to_owned(), root.join("unified")]);
        } else if controllers.split(',').any(|c| c == "cpu") {
            (read, bases) = (version1, vec![root.join(controllers), root.join("cpu")]);
        } else {
            continue;
        }
        for base in bases {
            // In a container the path may be that of the host, with only its own part mounted at the root: the root is looked at too.
            let relative = path.trim_start_matches('/');
            for dir in base.join(relative).ancestors() {
                if !dir.starts_with(&base) {
                    break;
                }
                if let Some(found) = read(dir) {
                    least = Some(least.map_or(found, |l| l.min(found)));
                }
            }
        }
    }
    least
}

/// `cpu.max`: `max 100000` or `150000 100000`.
fn version2(dir: &Path) -> Option<f64> {
    let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// `cpu.cfs_quota_us`: -1 without a quota.
fn version1(dir: &Path) -> Option<f64> {
    let number = |name: &str| -> Option<f64> {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let (quota, period) = (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    type File = (&'static str, &'static str);

    fn tree(files: &[File]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_smallest_quota_on_the_path_counts() {
        let v1 = [
            ("cpu,cpuacct/pods/cpu.cfs_quota_us", "400000\n"),
            ("cpu,cpuacct/pods/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/pods/a/cpu.cfs_quota_us", "50000\n"),
            ("cpu,cpuacct/pods/a/cpu.cfs_period_us", "100000\n"),
        ];
        let v1_none = [
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
        ];
        let v2 = [
            ("pods/cpu.max", "max 100000\n"),
            ("pods/a/cpu.max", "150000 100000\n"),
        ];
        let v2_at_root = [("cpu.max", "200000 100000\n")];
        let table: [(&str, &[File], Option<f64>); 6] = [
            ("4:cpu,cpuacct:/pods/a\n1:memory:/x\n", &v1, Some(0.5)),
            ("4:cpu,cpuacct:/pods\n", &v1, Some(4.0)),
            ("4:cpu:/\n", &v1_none, None),
            ("0::/pods/a\n", &v2, Some(1.5)),
            ("0::/host/path/that/is/not/here\n", &v2_at_root, Some(2.0)),
            ("", &[], None),
        ];
        for (membership, files, expected) in table {
            let dir = tree(files);
            assert_eq!(quota(membership, dir.path()), expected, "{membership}");
        }
        assert!(processors() >= 1);
    }
}
