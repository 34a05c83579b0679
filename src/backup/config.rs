//! The settings of a run, from flags, the environment and files. Secrets come from files only: neither arguments
//! nor logs ever hold one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};

use super::{CacheIdentity, Failure, Reason};
use crate::api::topology::WireTopology;

/// A store that answers nothing fails the run after about this much times the attempts.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS_MAX: u32 = 4;

/// `cache-operator backup-job`: each flag is also an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct BackupArgs {
    /// The namespace of the Cache
    #[arg(long, env = "CACHE_BACKUP_NAMESPACE")]
    pub namespace: String,
    /// The name of the Cache
    #[arg(long, env = "CACHE_BACKUP_CACHE")]
    pub cache: String,
    /// The UID of the Cache: part of the objects' keys
    #[arg(long, env = "CACHE_BACKUP_CACHE_UID")]
    pub cache_uid: String,
    /// The snapshot's name: part of the objects' keys
    #[arg(long, env = "CACHE_BACKUP_SNAPSHOT")]
    pub snapshot: String,
    /// A file with a topology of the Cache (JSON, docs/protocol.md): where to find its nodes
    #[arg(long, env = "CACHE_BACKUP_TOPOLOGY_FILE")]
    pub topology_file: PathBuf,
    /// A file with the password of the control port
    #[arg(long, env = "CACHE_BACKUP_CONTROL_PASSWORD_FILE")]
    pub control_password_file: PathBuf,
    /// The bucket
    #[arg(long, env = "CACHE_BACKUP_S3_BUCKET")]
    pub bucket: String,
    /// Before each object's key, as it is: end it with a slash to make a folder
    #[arg(long, env = "CACHE_BACKUP_S3_PREFIX", default_value = "")]
    pub prefix: String,
    /// The bucket's region
    #[arg(long, env = "CACHE_BACKUP_S3_REGION", default_value = "us-east-1")]
    pub region: String,
    /// The URL of an S3-compatible store, when it is not AWS
    #[arg(long, env = "CACHE_BACKUP_S3_ENDPOINT")]
    pub endpoint: Option<String>,
    /// Address the bucket as a path instead of a host name; most stores other than AWS need it
    #[arg(long, env = "CACHE_BACKUP_S3_PATH_STYLE", default_value_t = false)]
    pub path_style: bool,
    /// A folder with the files accessKeyID, secretAccessKey and, optionally, sessionToken
    /// (a mounted Secret). Without it the SDK's usual places are looked at: environment, web identity, instance
    #[arg(long, env = "CACHE_BACKUP_S3_CREDENTIALS_DIR")]
    pub credentials_dir: Option<PathBuf>,
    /// Where the result is written for the kubelet to read
    #[arg(
        long,
        env = "CACHE_BACKUP_TERMINATION_FILE",
        default_value = "/dev/termination-log"
    )]
    pub termination_file: PathBuf,
}

impl BackupArgs {
    pub fn identity(&self) -> CacheIdentity {
        CacheIdentity {
            namespace: self.namespace.clone(),
            name: self.cache.clone(),
            uid: self.cache_uid.clone(),
        }
    }

    pub(super) fn target(&self) -> Result<StorageTarget, Failure> {
        let credentials = match &self.credentials_dir {
            Some(folder) => Credentials::Static(StaticKeys::read(folder)?),
            None => Credentials::Ambient,
        };
        Ok(StorageTarget {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            path_style: self.path_style,
            credentials,
        })
    }

    pub(super) fn topology(&self) -> Result<WireTopology, Failure> {
        let text = read(&self.topology_file, "--topology-file")?;
        serde_json::from_str(&text).map_err(|e| {
            Failure::new(
                Reason::BadConfiguration,
                format!("--topology-file {}: {e}", self.topology_file.display()),
            )
        })
    }

    pub(super) fn control_password(&self) -> Result<String, Failure> {
        Ok(
            read(&self.control_password_file, "--control-password-file")?
                .trim_end_matches(['\r', '\n'])
                .to_string(),
        )
    }
}

/// Where snapshots go.
#[derive(Debug, Clone)]
pub struct StorageTarget {
    pub bucket: String,
    pub prefix: String,
    pub region: String,
    pub endpoint: Option<String>,
    pub path_style: bool,
    pub credentials: Credentials,
}

#[derive(Debug, Clone)]
pub enum Credentials {
    Static(StaticKeys),
    /// From the SDK's default chain.
    Ambient,
}

/// An access key. Its `Debug` hides the secrets.
#[derive(Clone)]
pub struct StaticKeys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl std::fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticKeys")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl StaticKeys {
    fn read(folder: &Path) -> Result<Self, Failure> {
        let key = |name: &str| -> Result<Option<String>, Failure> {
            let path = folder.join(name);
            if !path.exists() {
                return Ok(None);
            }
            Ok(Some(read(&path, "--credentials-dir")?.trim().to_string()))
        };
        let needed = |name: &str| {
            key(name)?.filter(|v| !v.is_empty()).ok_or_else(|| {
                Failure::new(
                    Reason::WrongCredentials,
                    format!("the credentials Secret has no key {name}"),
                )
            })
        };
        Ok(StaticKeys {
            access_key_id: needed("accessKeyID")?,
            secret_access_key: needed("secretAccessKey")?,
            session_token: key("sessionToken")?.filter(|v| !v.is_empty()),
        })
    }
}

fn read(path: &Path, flag: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| {
        Failure::new(
            Reason::BadConfiguration,
            format!("{flag}: {} cannot be read: {e}", path.display()),
        )
    })
}

/// An S3 client with bounded retries and timeouts.
pub async fn client(target: &StorageTarget) -> Client {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(aws_config::Region::new(target.region.clone()))
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        );
    if let Credentials::Static(keys) = &target.credentials {
        loader = loader.credentials_provider(aws_sdk_s3::config::Credentials::new(
            keys.access_key_id.clone(),
            keys.secret_access_key.clone(),
            keys.session_token.clone(),
            None,
            "cache-backup",
        ));
    }
    let shared = loader.load().await;
    // Trailing checksums, the SDK's default, are refused by older S3-compatible stores.
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(target.path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &target.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Client::from_conf(config.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_never_show() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect(name);
        write(
            "topology.json",
            r#"{"clusterID":"c","epoch":3,"shards":[],"moves":[],"unknown":1}"#,
        );
        write("password", "hush\n");
        write("accessKeyID", "AKIA1\n");
        let args = arguments(folder.path());
        assert_eq!(args.control_password().expect("a password"), "hush");
        assert_eq!(args.topology().expect("a topology").epoch, 3);
        let failure = args.target().expect_err("half a key");
        assert_eq!(failure.reason, Reason::WrongCredentials);
        assert!(failure.message.contains("secretAccessKey"), "{failure}");
        write("secretAccessKey", "s3cr3t");
        let target = args.target().expect("a whole key");
        assert!(!format!("{target:?}").contains("s3cr3t"));
        std::fs::remove_file(folder.path().join("topology.json")).expect("removed");
        assert_eq!(
            args.topology().expect_err("gone").reason,
            Reason::BadConfiguration
        );
    }

    fn arguments(folder: &Path) -> BackupArgs {
        BackupArgs {
            namespace: "team".into(),
            cache: "main".into(),
            cache_uid: "u".into(),
            snapshot: "s".into(),
            topology_file: folder.join("topology.json"),
            control_password_file: folder.join("password"),
            bucket: "b".into(),
            prefix: String::new(),
            region: "us-east-1".into(),
            endpoint: None,
            path_style: true,
            credentials_dir: Some(folder.to_path_buf()),
            termination_file: folder.join("termination"),
        }
    }
}
