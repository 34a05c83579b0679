//! A member: a StatefulSet of one replica, so that each rolls, is replaced or removed alone.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
    HTTPGetAction, KeyToPath, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{Owner, cache_labels};
use super::{PASSWORD_KEY, TOPOLOGY_KEY, control_secret_name, placement, topology_config_map_name};
use crate::api::names::{
    ANNOTATION_TEMPLATE, CONTROL_PORT, LABEL_CACHE, LABEL_MEMBER, LABEL_MEMBER_INDEX, LABEL_SHARD,
    METRICS_PORT, PORT, nodes_service,
};
use crate::plan::Desired;

pub const CONTAINER: &str = "cache-node";
/// When the template was last changed: RFC 3339.
pub const ANNOTATION_CHANGED_AT: &str = "cache.clusterdb.io/template-changed-at";

/// On pods: the UID of their Cache, as one of the same name may have been there before.
pub const ANNOTATION_CACHE_UID: &str = "cache.clusterdb.io/cache-uid";

/// nonroot, as in distroless images.
pub(super) const USER: i64 = 65532;
/// A graceful stop hands over first.
const GRACE_SECONDS: i64 = 30;
const AUTH_DIR: &str = "/etc/cache/auth";
const CONTROL_DIR: &str = "/etc/cache/control";
const TOPOLOGY_DIR: &str = "/etc/cache/topology";
const DATA_DIR: &str = "/data";
/// Holds the last topology, nothing else.
const DATA_LIMIT: &str = "64Mi";

/// Which member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    pub name: String,
    pub shard: String,
    pub index: u8,
}

/// `changed_at` becomes [`ANNOTATION_CHANGED_AT`].
pub fn stateful_set(desired: &Desired, member: &MemberIdentity, changed_at: &str) -> StatefulSet {
    let labels = member_labels(desired, member);
    let mut metadata = Owner::cache(desired).metadata(member.name.clone(), labels.clone());
    metadata.annotations = Some(
        [
            (ANNOTATION_TEMPLATE, desired.template_hash.as_str()),
            (ANNOTATION_CHANGED_AT, changed_at),
        ]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into(),
    );
    let selector = [
        (LABEL_CACHE, desired.name.as_str()),
        (LABEL_MEMBER, member.name.as_str()),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()));
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(nodes_service(&desired.name)),
            selector: LabelSelector {
                match_labels: Some(selector.into()),
                ..LabelSelector::default()
            },
            // With OrderedReady a pod that never becomes ready would not be replaced when its template is corrected.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(2),
            template: template(desired, member, labels),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn member_labels(desired: &Desired, member: &MemberIdentity) -> BTreeMap<String, String> {
    let mut labels = cache_labels(&desired.name);
    labels.insert(LABEL_SHARD.into(), member.shard.clone());
    labels.insert(LABEL_MEMBER_INDEX.into(), member.index.to_string());
    labels.insert(LABEL_MEMBER.into(), member.name.clone());
    labels
}

fn template(
    desired: &Desired,
    member: &MemberIdentity,
    own: BTreeMap<String, String>,
) -> PodTemplateSpec {
    let settings = &desired.pod;
    let mut labels = settings.labels.clone();
    labels.extend(own);
    let mut annotations = settings.annotations.clone();
    annotations.insert(ANNOTATION_TEMPLATE.into(), desired.template_hash.clone());
    annotations.insert(ANNOTATION_CACHE_UID.into(), desired.uid.clone());
    let some = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(desired.name.clone()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(pod_security()),
            affinity: Some(placement::affinity(desired, &member.shard)),
            topology_spread_constraints: Some(placement::spread(desired, &member.shard)),
            node_selector: some(&settings.node_selector),
            tolerations: (!settings.tolerations.is_empty()).then(|| settings.tolerations.clone()),
            priority_class_name: settings.priority_class_name.clone(),
            image_pull_secrets: (!settings.image_pull_secrets.is_empty())
                .then(|| settings.image_pull_secrets.clone()),
            containers: vec![container(desired, member)],
            volumes: Some(volumes(desired)),
            ..PodSpec::default()
        }),
    }
}

pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

fn container(desired: &Desired, member: &MemberIdentity) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(port),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.into(),
        image: Some(desired.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(arguments(desired, member)),
        ports: Some(vec![
            port("redis", PORT),
            port("control", CONTROL_PORT),
            port("metrics", METRICS_PORT),
        ]),
        resources: Some(ResourceRequirements {
            limits: (!desired.resources.limits.is_empty())
                .then(|| desired.resources.limits.clone()),
            requests: (!desired.resources.requests.is_empty())
                .then(|| desired.resources.requests.clone()),
            ..ResourceRequirements::default()
        }),
        startup_probe: Some(probe("/livez", 1, 60)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        // A restart loses what is in memory: only for a process that has surely hung.
        liveness_probe: Some(probe("/livez", 10, 6)),
        security_context: Some(container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![
            mount("auth", AUTH_DIR, true),
            mount("control", CONTROL_DIR, true),
            mount("topology", TOPOLOGY_DIR, true),
            mount("data", DATA_DIR, false),
        ]),
        ..Container::default()
    }
}

fn arguments(desired: &Desired, member: &MemberIdentity) -> Vec<String> {
    let host = desired.addressing.endpoint(&member.name).host;
    vec![
        "--cluster".into(),
        format!("--member={}", member.name),
        format!("--advertise-host={host}"),
        "--bind=0.0.0.0".into(),
        format!("--port={PORT}"),
        "--control-bind=0.0.0.0".into(),
        format!("--control-port={CONTROL_PORT}"),
        format!("--metrics-port={METRICS_PORT}"),
        format!("--max-memory={}", desired.max_memory_bytes),
        format!("--data-dir={DATA_DIR}"),
        format!("--password-file={AUTH_DIR}/{PASSWORD_KEY}"),
        format!("--control-password-file={CONTROL_DIR}/{PASSWORD_KEY}"),
        format!("--topology-file={TOPOLOGY_DIR}/{TOPOLOGY_KEY}"),
        "--log-format=json".into(),
    ]
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("metrics".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

pub(super) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

pub(super) fn secret_volume(name: &str, secret: &str, items: Option<Vec<KeyToPath>>) -> Volume {
    Volume {
        name: name.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.into()),
            items,
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn topology_volume(cache: &str, optional: bool) -> Volume {
    Volume {
        name: "topology".into(),
        config_map: Some(ConfigMapVolumeSource {
            name: topology_config_map_name(cache),
            optional: optional.then_some(true),
            default_mode: Some(0o444),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn volumes(desired: &Desired) -> Vec<Volume> {
    let password = KeyToPath {
        key: desired.auth.key.clone(),
        path: PASSWORD_KEY.into(),
        mode: None,
    };
    vec![
        secret_volume("auth", &desired.auth.name, Some(vec![password])),
        secret_volume("control", &control_secret_name(&desired.name), None),
        // A new Cache has no topology yet.
        topology_volume(&desired.name, true),
        Volume {
            name: "data".into(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity(DATA_LIMIT.into())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}
