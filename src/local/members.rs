//! The members of a Cache as entries of the state directory: each has a folder with its ports, and a process made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::folder::{CacheFolder, write_whole};
use super::supervisor::ProcessSpec;
use crate::api::topology::{Addressing, Endpoint};
use crate::plan::Desired;

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long a member may take to hand over and end before it is killed.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(30);

/// `member.yaml`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberFile {
    pub port: u16,
    pub control_port: u16,
    /// The member exists, rather than only having its ports kept.
    #[serde(default)]
    pub created: bool,
    #[serde(default)]
    pub template_hash: String,
    #[serde(default)]
    pub changed_at_ms: u64,
    #[serde(default)]
    pub deleting: bool,
}

/// All entries of a Cache, by member.
pub fn read_members(folder: &CacheFolder) -> anyhow::Result<BTreeMap<String, MemberFile>> {
    let entries = match std::fs::read_dir(folder.members()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).context("reading the members"),
    };
    let mut members = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path().join("member.yaml");
        let (Ok(name), true) = (entry.file_name().into_string(), path.is_file()) else {
            continue;
        };
        let text = std::fs::read_to_string(&path)?;
        let file = serde_yaml::from_str(&text)
            .with_context(|| format!("{} is not what this program wrote", path.display()))?;
        members.insert(name, file);
    }
    Ok(members)
}

pub(super) fn write_member(
    folder: &CacheFolder,
    member: &str,
    file: &MemberFile,
) -> anyhow::Result<()> {
    let path = folder.member(member);
    std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    write_whole(
        &path.join("member.yaml"),
        serde_yaml::to_string(file)?.as_bytes(),
        false,
    )
}

/// Forgets a member; its log stays for whoever wonders.
pub(super) fn forget_member(folder: &CacheFolder, member: &str) -> anyhow::Result<()> {
    let path = folder.member(member);
    let data = path.join("data");
    if data.exists() {
        std::fs::remove_dir_all(data)?;
    }
    std::fs::remove_file(path.join("member.yaml")).with_context(|| format!("forgetting {member}"))
}

/// Hands out ports, upwards from where it was told to begin, passing over those in use on this machine.
#[derive(Debug)]
pub struct Ports {
    next: u16,
}

impl Ports {
    pub fn from(first: u16) -> Self {
        Ports { next: first }
    }

    /// A port that nobody listens on and that is not among `taken`.
    pub fn take(&mut self, taken: &BTreeSet<u16>) -> anyhow::Result<u16> {
        for _ in 0..u16::MAX {
            let port = self.next;
            self.next = self.next.checked_add(1).unwrap_or(1024);
            if !taken.contains(&port) && TcpListener::bind(SocketAddr::new(LOOPBACK, port)).is_ok()
            {
                return Ok(port);
            }
        }
        bail!("no free port is left on 127.0.0.1")
    }
}

/// Keeps ports for every member that the spec asks for, so that a member's endpoint is fixed before anything names it.
pub(super) fn keep_ports(
    folder: &CacheFolder,
    members: &mut BTreeMap<String, MemberFile>,
    wanted: impl Iterator<Item = String>,
    ports: &mut Ports,
) -> anyhow::Result<()> {
    for member in wanted {
        if members.contains_key(&member) {
            continue;
        }
        let taken: BTreeSet<u16> = members
            .values()
            .flat_map(|m| [m.port, m.control_port])
            .collect();
        let port = ports.take(&taken)?;
        let control_port = ports.take(&taken)?;
        let file = MemberFile {
            port,
            control_port,
            created: false,
            template_hash: String::new(),
            changed_at_ms: 0,
            deleting: false,
        };
        write_member(folder, &member, &file)?;
        members.insert(member, file);
    }
    Ok(())
}

pub(super) fn addressing(members: &BTreeMap<String, MemberFile>) -> Addressing {
    let endpoint = |file: &MemberFile| Endpoint {
        host: LOOPBACK.to_string(),
        port: file.port,
        control_port: file.control_port,
    };
    Addressing::Local {
        members: members
            .iter()
            .map(|(name, file)| (name.clone(), endpoint(file)))
            .collect(),
    }
}

/// How the supervisor calls a member's process.
pub(super) fn process_name(cache: &str, member: &str) -> String {
    format!("{cache}/{member}")
}

/// The process of a member.
pub(super) fn process(
    folder: &CacheFolder,
    desired: &Desired,
    member: &str,
    file: &MemberFile,
    program: &Path,
) -> anyhow::Result<ProcessSpec> {
    let path = folder.member(member);
    let data = path.join("data");
    std::fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
    let shown = |path: PathBuf| path.display().to_string();
    let flags = [
        ("member", member.to_string()),
        ("bind", LOOPBACK.to_string()),
        ("port", file.port.to_string()),
        ("control-bind", LOOPBACK.to_string()),
        ("control-port", file.control_port.to_string()),
        ("control-password-file", shown(folder.control_password())),
        ("metrics-port", "0".to_string()),
        ("max-memory", desired.max_memory_bytes.to_string()),
        ("data-dir", shown(data)),
        ("topology-file", shown(folder.topology())),
        ("advertise-host", LOOPBACK.to_string()),
        ("advertise-port", file.port.to_string()),
        ("threads", "1".to_string()),
    ];
    let mut args = vec!["--cluster".to_string()];
    args.extend(
        flags
            .into_iter()
            .map(|(flag, value)| format!("--{flag}={value}")),
    );
    Ok(ProcessSpec {
        name: process_name(&desired.name, member),
        program: program.to_path_buf(),
        args,
        env: BTreeMap::new(),
        log: path.join("log"),
        pid_file: path.join("pid"),
        label: file.template_hash.clone(),
    })
}

/// The `cache-node` program: as told, else beside this program (or one folder up, where cargo puts a test's).
pub fn find_node_program(told: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(told) = told {
        if !told.is_file() {
            bail!("--node-binary: there is no file {}", told.display());
        }
        return Ok(told.canonicalize()?);
    }
    let own = std::env::current_exe().context("finding this program's own path")?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("cache-node"));
    let mut looked = Vec::new();
    for candidate in beside {
        if candidate.is_file() {
            return Ok(candidate);
        }
        looked.push(candidate.display().to_string());
    }
    bail!(
        "the server program cache-node was not found (looked for {}): build it with `cargo build -p cache-node`, or name it with --node-binary",
        looked.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_and_ports_kept_are_passed_over() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = held.local_addr().expect("an address").port();
        let kept = BTreeSet::from([port.checked_add(1).expect("below the last port")]);
        let mut ports = Ports::from(port);
        let first = ports.take(&kept).expect("a port");
        assert!(first != port && !kept.contains(&first));
        assert_ne!(ports.take(&kept).expect("a port"), first);
    }

    #[test]
    fn kept_ports_stay_with_their_member() {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = crate::local::StateFolder::new(temp.path()).cache("main");
        let names = |n: u8| (0..n).map(|i| format!("main-{i}-0"));
        let mut ports = Ports::from(20_000);
        let mut members = BTreeMap::new();
        keep_ports(&folder, &mut members, names(2), &mut ports).expect("kept");
        let before = members.clone();
        keep_ports(&folder, &mut members, names(3), &mut ports).expect("kept");
        assert_eq!(read_members(&folder).expect("read"), members);
        assert!(before.iter().all(|(name, file)| &members[name] == file));
        let all: BTreeSet<u16> = members
            .values()
            .flat_map(|m| [m.port, m.control_port])
            .collect();
        assert_eq!(all.len(), 6);
    }
}
