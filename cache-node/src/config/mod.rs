//! What the process is told at its start: flags, each also an environment variable, checked together.

pub mod cgroup;
pub mod passwords;
pub mod units;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use thiserror::Error;

use crate::limits::{
    CLIENTS_MAX, COMPRESSION_MIN_SIZE, COMPRESSION_VALUE_MAX, LOG_BACKLOG, LOG_BACKLOG_MIN,
    LOG_BACKLOG_SHARE, LOG_BACKLOG_SMALL, THREADS_MAX,
};
use crate::store::PolicyKind;
use crate::store::compress::Method;
use units::parse_bytes;

const EXAMPLES: &str = "\
Examples:
  A cache for this machine alone, on 127.0.0.1:6379, to be tried with redis-cli:
    cache-node

  Two gigabytes, then writes are answered with OOM; reachable from other machines with a password:
    cache-node --bind 0.0.0.0 --max-memory 2gb --password-file /etc/cache/password

  With Prometheus metrics on http://127.0.0.1:9121/metrics:
    cache-node --metrics-port 9121

  A member of a cluster that an operator runs through the control port:
    cache-node --cluster --member main-0-0 --bind 0.0.0.0 --control-bind 0.0.0.0 \\
      --control-password-file /etc/cache/control-password --topology-file /etc/cache/topology.json

Each flag is also an environment variable, shown as [env: ...]; a flag wins. A password file holds one password a line, any of
which is accepted; it is read again when it changes, so that passwords rotate without a restart.";

/// Who may use `DEBUG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DebugAccess {
    No,
    Local,
    Yes,
}

impl DebugAccess {
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Local => "local",
            Self::Yes => "yes",
        }
    }
}

/// A multi-threaded cache server that speaks the Redis protocol.
///
/// Started without flags it is a standalone cache on 127.0.0.1:6379. Data is in memory.
#[derive(Debug, Clone, Parser)]
#[command(name = "cache-node", version, after_long_help = EXAMPLES, after_help = "--help shows more, with examples.")]
pub struct Config {
    /// Address that applications connect to; 0.0.0.0 or :: for all of the machine's.
    #[arg(
        long,
        env = "CACHE_NODE_BIND",
        default_value = "127.0.0.1",
        value_name = "ADDRESS"
    )]
    pub bind: IpAddr,

    /// Port that applications connect to; 0 takes a free one and logs it.
    #[arg(long, env = "CACHE_NODE_PORT", default_value_t = 6379)]
    pub port: u16,

    /// Server threads. Default: the processors that the cgroup's quota allows, else the cores.
    #[arg(long, env = "CACHE_NODE_THREADS", value_name = "COUNT")]
    pub threads: Option<usize>,

    /// Bytes that all that the node holds may take, for example 512mb or 2Gi; beyond, --max-memory-policy says what happens. 0: no limit.
    #[arg(long, env = "CACHE_NODE_MAX_MEMORY", default_value = "0", value_parser = parse_bytes, value_name = "SIZE")]
    pub max_memory: u64,

    /// What goes when memory is full: noeviction (writes are answered with OOM), s3-fifo, sieve, fifo, w-tinylfu, or one of Redis's
    /// allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, volatile-lfu, volatile-random, volatile-ttl.
    #[arg(long, env = "CACHE_NODE_MAX_MEMORY_POLICY", default_value = "noeviction", value_parser = parse_policy, value_name = "POLICY")]
    pub max_memory_policy: PolicyKind,

    /// Keys at most; those beyond are evicted. 0: no limit. Needs a --max-memory-policy that evicts.
    #[arg(
        long,
        env = "CACHE_NODE_MAX_ITEMS",
        default_value_t = 0,
        value_name = "COUNT"
    )]
    pub max_items: u64,

    /// How strings are compressed in memory: none, lz4, zstd, or zstd:<level> with a level from 1 to 12. One that does not become an eighth
    /// shorter is kept as it is.
    #[arg(
        long,
        env = "CACHE_NODE_COMPRESSION",
        default_value = "none",
        value_name = "METHOD"
    )]
    pub compression: Method,

    /// Bytes of the smallest string that --compression compresses.
    #[arg(long, env = "CACHE_NODE_COMPRESSION_MIN_SIZE", default_value_t = u64::from(COMPRESSION_MIN_SIZE), value_parser = parse_bytes, value_name = "SIZE")]
    pub compression_min_size: u64,
    /// Whether DEBUG is answered: to nobody, to clients on this machine, or to all.
    #[arg(long, env = "CACHE_NODE_ENABLE_DEBUG_COMMAND", value_enum, default_value_t = DebugAccess::No, value_name = "WHO")]
    pub enable_debug_command: DebugAccess,

    /// Connections at most.
    #[arg(long, env = "CACHE_NODE_MAX_CLIENTS", default_value_t = CLIENTS_MAX, value_name = "COUNT")]
    pub max_clients: u32,

    /// Folder for what outlives the process: the last topology. Needs --cluster.
    #[arg(long, env = "CACHE_NODE_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// File with the passwords of applications. Default: none is asked for.
    #[arg(long, env = "CACHE_NODE_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// File with the passwords of the control port, which opens only when this is given.
    #[arg(long, env = "CACHE_NODE_CONTROL_PASSWORD_FILE", value_name = "FILE")]
    pub control_password_file: Option<PathBuf>,

    /// Address of the control port. Default: 127.0.0.1.
    #[arg(long, env = "CACHE_NODE_CONTROL_BIND", value_name = "ADDRESS")]
    pub control_bind: Option<IpAddr>,

    /// Control port, for the operator, cachectl and other nodes; 0 takes a free one and logs it. Default: 7379.
    #[arg(long, env = "CACHE_NODE_CONTROL_PORT", value_name = "PORT")]
    pub control_port: Option<u16>,

    /// Address of the metrics port. Default: as --bind.
    #[arg(long, env = "CACHE_NODE_METRICS_BIND", value_name = "ADDRESS")]
    pub metrics_bind: Option<IpAddr>,

    /// HTTP port of /metrics, /readyz and /livez; 0: none. Default: 0, with --cluster 9121.
    #[arg(long, env = "CACHE_NODE_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,

    /// Be a member of a cluster: serve what the topology says, which comes through the control port.
    #[arg(long, env = "CACHE_NODE_CLUSTER")]
    pub cluster: bool,

    /// Name of this member in the topology, for example main-0-0. Needs --cluster.
    #[arg(long, env = "CACHE_NODE_MEMBER", value_name = "NAME")]
    pub member: Option<String>,

    /// Host that clients are told for this node while no topology names it. Needs --cluster.
    #[arg(long, env = "CACHE_NODE_ADVERTISE_HOST", value_name = "HOST")]
    pub advertise_host: Option<String>,

    /// Port that clients are told for this node while no topology names it. Needs --cluster.
    #[arg(long, env = "CACHE_NODE_ADVERTISE_PORT", value_name = "PORT")]
    pub advertise_port: Option<u16>,

    /// File with a topology to begin with. Needs --cluster.
    #[arg(long, env = "CACHE_NODE_TOPOLOGY_FILE", value_name = "FILE")]
    pub topology_file: Option<PathBuf>,

    /// Bytes of the log that are kept for replicas that come back. Default: a 16th of --max-memory, 1mb to 64mb. Needs --cluster.
    #[arg(long, env = "CACHE_NODE_LOG_BACKLOG", value_parser = parse_bytes, value_name = "SIZE")]
    pub log_backlog: Option<u64>,

    /// Seconds that a stopping member may take to hand over to a replica. Default: 20. Needs --cluster.
    #[arg(long, env = "CACHE_NODE_SHUTDOWN_GRACE", value_name = "SECONDS")]
    pub shutdown_grace: Option<u32>,

    /// What is logged: error, warn, info, debug, trace, or by module as in cache_node::replicate=debug,info.
    #[arg(
        long,
        env = "CACHE_NODE_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: String,

    /// How it is logged, to standard error.
    #[arg(
        long,
        env = "CACHE_NODE_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

fn parse_policy(name: &str) -> Result<PolicyKind, String> {
    PolicyKind::named(name).ok_or_else(|| {
        let names = PolicyKind::ALL.map(|(_, name)| name).join(", ");
        format!("there is no policy {name}; give one of {names}")
    })
}

/// A flag that cannot be. Names the flag, its value and the mend.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("--{flag}={value}: {mend}")]
pub struct Invalid {
    pub flag: &'static str,
    pub value: String,
    pub mend: String,
}

const CONTROL_PORT: u16 = 7379;
const METRICS_PORT: u16 = 9121;
const SHUTDOWN_GRACE_S: u32 = 20;

impl Config {
    /// The flags of a plain start, whatever the environment says.
    pub fn plain() -> Self {
        Self {
            bind: IpAddr::from([127, 0, 0, 1]),
            port: 6379,
            threads: None,
            max_memory: 0,
            max_memory_policy: PolicyKind::NoEviction,
            max_items: 0,
            compression: Method::None,
            compression_min_size: COMPRESSION_MIN_SIZE.into(),
            enable_debug_command: DebugAccess::No,
            max_clients: CLIENTS_MAX,
            data_dir: None,
            password_file: None,
            control_password_file: None,
            control_bind: None,
            control_port: None,
            metrics_bind: None,
            metrics_port: None,
            cluster: false,
            member: None,
            advertise_host: None,
            advertise_port: None,
            topology_file: None,
            log_backlog: None,
            shutdown_grace: None,
            log_level: "info".into(),
            log_format: LogFormat::Text,
        }
    }

    pub fn threads(&self) -> usize {
        self.threads
            .unwrap_or_else(|| cgroup::processors().min(THREADS_MAX))
    }

    pub fn control_bind(&self) -> IpAddr {
        self.control_bind.unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }

    pub fn control_port(&self) -> u16 {
        self.control_port.unwrap_or(CONTROL_PORT)
    }

    pub fn metrics_bind(&self) -> IpAddr {
        self.metrics_bind.unwrap_or(self.bind)
    }

    /// 0: no metrics port.
    pub fn metrics_port(&self) -> u16 {
        let default = if self.cluster { METRICS_PORT } else { 0 };
        self.metrics_port.unwrap_or(default)
    }

    /// The member's name; empty for a standalone node.
    pub fn member(&self) -> &str {
        self.member.as_deref().unwrap_or_default()
    }

    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace.unwrap_or(SHUTDOWN_GRACE_S).into())
    }

    pub fn log_backlog(&self) -> usize {
        let default = match self.max_memory {
            0 => LOG_BACKLOG,
            most => (most / LOG_BACKLOG_SHARE).clamp(LOG_BACKLOG_SMALL, LOG_BACKLOG),
        };
        self.log_backlog.unwrap_or(default) as usize
    }

    /// What cannot be, by one flag or by several together.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_values()?;
        self.validate_together()
    }

    fn validate_values(&self) -> Result<(), Invalid> {
        if let Some(threads) = self.threads
            && !(1..=THREADS_MAX).contains(&threads)
        {
            return invalid(
                "threads",
                threads,
                format!("give 1 to {THREADS_MAX}, or leave it away"),
            );
        }
        if self.max_clients == 0 {
            return invalid("max-clients", 0, "give at least 1");
        }
        let least_and_most = 1..=COMPRESSION_VALUE_MAX as u64;
        if !least_and_most.contains(&self.compression_min_size) {
            return invalid(
                "compression-min-size",
                self.compression_min_size,
                format!("give 1 to {COMPRESSION_VALUE_MAX} bytes"),
            );
        }
        if let Some(bytes) = self.log_backlog
            && bytes < LOG_BACKLOG_MIN
        {
            return invalid(
                "log-backlog",
                bytes,
                format!("give at least {LOG_BACKLOG_MIN} bytes"),
            );
        }
        if let Some(member) = &self.member
            && (member.is_empty() || !member.bytes().all(|b| b.is_ascii_graphic()))
        {
            return invalid(
                "member",
                member,
                "give a name of printable characters without blanks",
            );
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log_level).is_err() {
            let mend = "give error, warn, info, debug or trace, or directives such as cache_node=debug,info";
            return invalid("log-level", &self.log_level, mend);
        }
        Ok(())
    }

    fn validate_together(&self) -> Result<(), Invalid> {
        if self.max_items > 0 && self.max_memory_policy == PolicyKind::NoEviction {
            let mend = "keys beyond a limit are evicted: add a --max-memory-policy that evicts, for example s3-fifo";
            return invalid("max-items", self.max_items, mend);
        }
        if !self.cluster {
            let needs_cluster = [
                ("member", self.member.clone()),
                ("advertise-host", self.advertise_host.clone()),
                ("advertise-port", self.advertise_port.map(|p| p.to_string())),
                (
                    "topology-file",
                    self.topology_file.as_ref().map(|p| p.display().to_string()),
                ),
                (
                    "data-dir",
                    self.data_dir.as_ref().map(|p| p.display().to_string()),
                ),
                ("log-backlog", self.log_backlog.map(|b| b.to_string())),
                ("shutdown-grace", self.shutdown_grace.map(|s| s.to_string())),
            ];
            for (flag, value) in needs_cluster {
                if let Some(value) = value {
                    return invalid(
                        flag,
                        value,
                        "means something with --cluster only: add that, or leave this away",
                    );
                }
            }
        } else if self.member.is_none() {
            return invalid(
                "cluster",
                true,
                "a member needs a name: add --member, for example --member main-0-0",
            );
        } else if self.control_password_file.is_none() {
            let mend = "the topology comes through the control port: add --control-password-file";
            return invalid("cluster", true, mend);
        }
        if self.control_password_file.is_none() {
            let control = [
                ("control-port", self.control_port.map(|p| p.to_string())),
                ("control-bind", self.control_bind.map(|b| b.to_string())),
            ];
            for (flag, value) in control {
                if let Some(value) = value {
                    return invalid(
                        flag,
                        value,
                        "the control port opens with --control-password-file only: add that",
                    );
                }
            }
        }
        if let Some(bind) = self.metrics_bind
            && self.metrics_port() == 0
        {
            return invalid(
                "metrics-bind",
                bind,
                "there is no metrics port: add --metrics-port, for example 9121",
            );
        }
        self.validate_ports()
    }

    fn validate_ports(&self) -> Result<(), Invalid> {
        let ports = [
            ("port", self.port),
            (
                "control-port",
                self.control_password_file
                    .as_ref()
                    .map_or(0, |_| self.control_port()),
            ),
            ("metrics-port", self.metrics_port()),
        ];
        for (i, (flag, port)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports[..i].iter().find(|(_, p)| p == port && *p != 0) {
                return invalid(flag, port, format!("--{other} has this port: give another"));
            }
        }
        Ok(())
    }
}

fn invalid(
    flag: &'static str,
    value: impl ToString,
    mend: impl Into<String>,
) -> Result<(), Invalid> {
    Err(Invalid {
        flag,
        value: value.to_string(),
        mend: mend.into(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(flags: &str) -> Config {
        Config::try_parse_from(std::iter::once("cache-node").chain(flags.split_whitespace()))
            .unwrap()
    }

    #[test]
    fn a_plain_start_is_a_standalone_cache_on_loopback() {
        let config = parse("");
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(
            (config.bind.to_string().as_str(), config.port),
            ("127.0.0.1", 6379)
        );
        assert_eq!((config.control_port(), config.metrics_port()), (7379, 0));
        assert!(config.threads() >= 1);
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::plain()));
    }

    #[test]
    fn each_flag_is_an_environment_variable_too() {
        Config::command().debug_assert();
        for arg in Config::command()
            .get_arguments()
            .filter(|a| a.get_long().is_some())
        {
            let flag = arg.get_long().unwrap_or_default();
            if matches!(flag, "help" | "version") {
                continue;
            }
            let expected = format!("CACHE_NODE_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(
                arg.get_env().and_then(|e| e.to_str()),
                Some(expected.as_str()),
                "--{flag}"
            );
            assert!(arg.get_help().is_some(), "--{flag}");
        }
    }

    #[test]
    fn the_backlog_is_a_part_of_the_memory() {
        let table = [
            ("", 64 << 20),
            ("--max-memory 64mb", 4 << 20),
            ("--max-memory 768mb", 48 << 20),
            ("--max-memory 8mb", 1 << 20),
            ("--max-memory 8gb", 64 << 20),
            ("--max-memory 8mb --log-backlog 32mb", 32 << 20),
        ];
        for (flags, bytes) in table {
            let config =
                Config::parse_from(["cache-node"].into_iter().chain(flags.split_whitespace()));
            assert_eq!(config.log_backlog(), bytes, "{flags}");
        }
    }

    #[test]
    fn what_cannot_be_names_flag_value_and_mend() {
        let table = [
            ("--threads 0", "--threads=0: give 1 to 128"),
            ("--threads 129", "--threads=129: give 1 to 128"),
            (
                "--max-items 5",
                "--max-items=5: keys beyond a limit are evicted",
            ),
            ("--max-clients 0", "--max-clients=0: give at least 1"),
            ("--cluster", "--cluster=true: a member needs a name"),
            (
                "--cluster --member a",
                "--cluster=true: the topology comes through",
            ),
            (
                "--member a",
                "--member=a: means something with --cluster only",
            ),
            (
                "--data-dir /d",
                "--data-dir=/d: means something with --cluster only",
            ),
            (
                "--control-port 7",
                "--control-port=7: the control port opens with",
            ),
            (
                "--metrics-bind ::1",
                "--metrics-bind=::1: there is no metrics port",
            ),
            (
                "--port 9 --metrics-port 9",
                "--metrics-port=9: --port has this port",
            ),
            (
                "--log-level =nonsense=",
                "--log-level==nonsense=: give error",
            ),
            (
                "--cluster --member a --control-password-file f --log-backlog 5",
                "--log-backlog=5: give at least 16384",
            ),
        ];
        for (flags, says) in table {
            let error = parse(flags).validate().unwrap_err().to_string();
            assert!(error.starts_with(says), "{flags}: {error}");
        }
        for (flags, says) in [
            ("--max-memory 5x", "5x"),
            ("--max-memory-policy newest", "there is no policy newest"),
            ("--bind nowhere", "nowhere"),
            ("--port 65536", "65536"),
        ] {
            let error =
                Config::try_parse_from(std::iter::once("cache-node").chain(flags.split(' ')))
                    .unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        let member = parse("--cluster --member a --control-password-file f");
        assert_eq!((member.validate(), member.metrics_port()), (Ok(()), 9121));
    }
}
