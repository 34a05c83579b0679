//! A backup run: a Job of this operator's own image. Secrets reach it as mounted files only.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, PodSpec, PodTemplateSpec, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::labels::{Owner, backup_labels};
use super::stateful_set::{
    container_security, mount, pod_security, secret_volume, topology_volume,
};
use super::{PASSWORD_KEY, TOPOLOGY_KEY, control_secret_name};
use crate::api::backup::S3;
use crate::api::cache::PodSettings;

const CONTROL_DIR: &str = "/etc/cache/control";
const TOPOLOGY_DIR: &str = "/etc/cache/topology";
const CREDENTIALS_DIR: &str = "/etc/cache/s3";
/// A run that takes longer is stopped; the next begins anew.
const DEADLINE_SECONDS: i64 = 6 * 3600;

/// Three parts of 8 MiB each are in memory at a time, more only for a shard beyond 70 GiB; the rest is the program and TLS.
const MEMORY_LIMIT: &str = "256Mi";
const REQUESTS: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "64Mi")];

/// What a run needs to know.
#[derive(Clone, Debug)]
pub struct BackupRunSpec<'a> {
    /// The CacheBackup.
    pub owner: Owner,
    /// The Job's and the snapshot's.
    pub name: &'a str,
    pub cache: &'a str,
    pub cache_uid: &'a str,
    /// The operator's.
    pub image: &'a str,
    pub s3: &'a S3,
    /// The Cache's: a run goes where its members may.
    pub pod: &'a PodSettings,
}

pub fn backup_job(run: &BackupRunSpec<'_>) -> Job {
    let labels = backup_labels(&run.owner.name, run.cache);
    let mut volumes: Vec<Volume> = vec![
        secret_volume("control", &control_secret_name(run.cache), None),
        topology_volume(run.cache, false),
    ];
    let mut mounts = vec![
        mount("control", CONTROL_DIR, true),
        mount("topology", TOPOLOGY_DIR, true),
    ];
    if let Some(secret) = &run.s3.credentials_secret {
        volumes.push(secret_volume("s3", &secret.name, None));
        mounts.push(mount("s3", CREDENTIALS_DIR, true));
    }
    let container = Container {
        name: "backup".into(),
        image: Some(run.image.into()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(arguments(run)),
        security_context: Some(container_security()),
        // The result: src/backup/report.rs.
        termination_message_policy: Some("File".into()),
        volume_mounts: Some(mounts),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&REQUESTS)),
            limits: Some(quantities(&[("memory", MEMORY_LIMIT)])),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    };
    let place = run.pod;
    let pod = PodSpec {
        // Clouds hang the rights to the bucket on it, if no Secret holds them.
        service_account_name: Some(run.cache.into()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".into()),
        security_context: Some(pod_security()),
        node_selector: (!place.node_selector.is_empty()).then(|| place.node_selector.clone()),
        tolerations: (!place.tolerations.is_empty()).then(|| place.tolerations.clone()),
        priority_class_name: place.priority_class_name.clone(),
        image_pull_secrets: (!place.image_pull_secrets.is_empty())
            .then(|| place.image_pull_secrets.clone()),
        containers: vec![container],
        volumes: Some(volumes),
        ..PodSpec::default()
    };
    Job {
        metadata: run.owner.metadata(run.name.into(), labels.clone()),
        spec: Some(JobSpec {
            // The controller tries again itself, with a new Job: each has one result.
            backoff_limit: Some(0),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    let quantity = |(name, value): &(&str, &str)| (name.to_string(), Quantity(value.to_string()));
    pairs.iter().map(quantity).collect()
}

fn arguments(run: &BackupRunSpec<'_>) -> Vec<String> {
    let s3 = run.s3;
    let mut arguments = vec![
        "backup-job".into(),
        format!("--namespace={}", run.owner.namespace),
        format!("--cache={}", run.cache),
        format!("--cache-uid={}", run.cache_uid),
        format!("--snapshot={}", run.name),
        format!("--topology-file={TOPOLOGY_DIR}/{TOPOLOGY_KEY}"),
        format!("--control-password-file={CONTROL_DIR}/{PASSWORD_KEY}"),
        format!("--bucket={}", s3.bucket),
        format!("--prefix={}", s3.prefix),
        "--log-format=json".into(),
    ];
    arguments.extend(
        s3.region
            .as_ref()
            .map(|region| format!("--region={region}")),
    );
    arguments.extend(
        s3.endpoint
            .as_ref()
            .map(|endpoint| format!("--endpoint={endpoint}")),
    );
    if s3.force_path_style {
        arguments.push("--path-style".into());
    }
    if s3.credentials_secret.is_some() {
        arguments.push(format!("--credentials-dir={CREDENTIALS_DIR}"));
    }
    arguments
}
