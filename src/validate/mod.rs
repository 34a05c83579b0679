//! `validate`: from a spec as users write it to what the planner works with, or errors that name field, value and mend.
//!
//! The API server has refused most mistakes already (the schema's CEL rules); this catches those that a schema cannot see, and all of them in
//! local mode.

mod backup;
mod error;
mod pod;
pub mod regions;
mod resources;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use backup::{ValidBackup, backup};
pub use error::{FieldError, Invalid};
pub use regions::{RegionVerdict, Regions};
pub use resources::derived_max_memory;

use crate::api::cache::{Cache, CacheSpec, MaintenanceTask, Policy, ResourceList, Resources};
use crate::api::names;
use crate::api::region::CacheRegion;
use crate::api::topology::Addressing;
use crate::plan::cron::Schedule;
use crate::plan::desired::{AuthSecret, Desired, Limits, Maintenance};

/// What validation needs beside the object.
#[derive(Clone, Debug)]
pub struct Context {
    /// The image of Caches that name none.
    pub default_image: String,
    pub addressing: Addressing,
    pub limits: Limits,
    /// The Cache's CacheRegions.
    pub regions: Vec<CacheRegion>,
}

/// A Cache's spec, validated.
///
/// # Errors
/// All mistakes at once, each with field, value and mend.
pub fn cache(cache: &Cache, context: &Context) -> Result<Desired, Invalid> {
    let mut errors = Vec::new();
    let spec = &cache.spec;
    let name = cache.metadata.name.clone().unwrap_or_default();
    check_name(&name, &mut errors);
    let shards = in_range(
        "spec.shards",
        spec.shards,
        1,
        i32::from(names::SHARDS_MAX),
        &mut errors,
    );
    let replicas = in_range(
        "spec.replicasPerShard",
        spec.replicas_per_shard,
        0,
        i32::from(names::REPLICAS_PER_SHARD_MAX),
        &mut errors,
    );
    let (resources, max_memory_bytes) = resources::resources(spec, &mut errors);
    let pod = pod::pod(spec.pod.as_ref(), &mut errors);
    let maintenance = maintenance(spec, &mut errors);
    let image = image(cache, context, &mut errors);
    let policy = regions::policy(spec, &mut errors);
    if !errors.is_empty() {
        return Err(Invalid { errors });
    }
    let auth = auth(&name, spec);
    let restart = annotation(cache, names::ANNOTATION_RESTART);
    let template_hash = TemplateInputs {
        image: &image.wanted,
        limits: &resources.limits,
        requests: &resources.requests,
        labels: &pod.labels,
        annotations: &pod.annotations,
        node_selector: &pod.node_selector,
        placement: serde_json::json!([
            pod.affinity,
            pod.tolerations,
            pod.topology_spread_constraints,
            pod.priority_class_name,
            pod.image_pull_secrets,
        ]),
        max_memory_bytes,
        auth: [&auth.name, &auth.key],
        restart,
    }
    .hash();
    Ok(Desired {
        namespace: cache
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".into()),
        uid: cache.metadata.uid.clone().unwrap_or_default(),
        generation: cache.metadata.generation.unwrap_or_default(),
        shards: u16::try_from(shards).unwrap_or(1),
        members_per_shard: u8::try_from(replicas + 1).unwrap_or(1),
        image: image.wanted,
        update_available: image.update_available,
        update_taken: image.update_taken,
        resources,
        max_memory_bytes,
        pod,
        auth,
        template_hash,
        addressing: context.addressing.clone(),
        maintenance,
        regions: regions::regions(spec, &policy, &context.regions).list,
        paused: spec.paused,
        held: false,
        deleting: cache.metadata.deletion_timestamp.is_some(),
        limits: context.limits,
        name,
    })
}

/// What there is, as if it were asked for: by this a Cache with an invalid spec is looked after. None where nothing was begun.
pub fn held(invalid: &Cache, context: &Context) -> Option<Desired> {
    let status = invalid.status.as_ref()?;
    let topology = status.topology.as_ref()?;
    let indexes = topology
        .members()
        .filter_map(|(_, entry)| {
            names::parse_member(invalid.metadata.name.as_deref()?, &entry.name)
        })
        .map(|(_, index)| i32::from(index));
    let mut like = invalid.clone();
    like.metadata.annotations = None;
    like.spec = CacheSpec {
        shards: i32::try_from(topology.shards.len()).ok()?,
        replicas_per_shard: indexes.max().unwrap_or_default(),
        image: status.image.clone(),
        // Of no consequence, but asked for.
        resources: Some(Resources {
            limits: Some(ResourceList {
                cpu: None,
                memory: Some(Quantity("1Gi".into())),
            }),
            requests: None,
        }),
        pod: None,
        auth: None,
        policy: kept_policy(&invalid.spec),
        maintenance: None,
        paused: invalid.spec.paused,
    };
    let desired = cache(&like, context).ok()?;
    Some(Desired {
        held: true,
        ..desired
    })
}

/// What nodes were told and what starting ones find stays as it is, unless it is what is wrong.
fn kept_policy(spec: &CacheSpec) -> Option<Policy> {
    let mut errors = Vec::new();
    regions::policy(spec, &mut errors);
    let policy = spec.policy.as_ref().filter(|_| errors.is_empty())?;
    Some(Policy {
        max_memory_per_shard: None,
        ..policy.clone()
    })
}

/// All that a member's process or pod is made of. A change of it restarts members; what is not in it must not need a restart.
#[derive(Serialize)]
struct TemplateInputs<'a> {
    image: &'a str,
    limits: &'a BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    requests: &'a BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    node_selector: &'a BTreeMap<String, String>,
    placement: serde_json::Value,
    max_memory_bytes: u64,
    auth: [&'a str; 2],
    restart: Option<&'a str>,
}

impl TemplateInputs<'_> {
    fn hash(&self) -> String {
        let text =
            serde_json::to_string(self).expect("strings, integers, lists and maps by string");
        let digest = Sha256::digest(text.as_bytes());
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn annotation<'a>(cache: &'a Cache, name: &str) -> Option<&'a str> {
    cache
        .metadata
        .annotations
        .as_ref()?
        .get(name)
        .map(String::as_str)
}

fn check_name(name: &str, errors: &mut Vec<FieldError>) {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let within = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !starts || !within || name.ends_with('-') {
        errors.push(FieldError::new(
            "metadata.name",
            name,
            "use lower-case letters, digits and '-', beginning with a letter",
        ));
    }
    if name.len() > names::CACHE_NAME_LENGTH_MAX {
        errors.push(FieldError::new(
            "metadata.name",
            name,
            "choose a name of at most 46 characters, as members are named <name>-<shard>-<index>",
        ));
    }
}

fn in_range(field: &str, value: i32, min: i32, max: i32, errors: &mut Vec<FieldError>) -> i32 {
    if !(min..=max).contains(&value) {
        errors.push(FieldError::new(field, value, format!("use {min} to {max}")));
    }
    value
}

struct Image {
    wanted: String,
    update_available: Option<String>,
    update_taken: bool,
}

/// The spec's image; else the one in use, unless an annotation allows the operator's default.
fn image(cache: &Cache, context: &Context, errors: &mut Vec<FieldError>) -> Image {
    let plain = |wanted: String| Image {
        wanted,
        update_available: None,
        update_taken: false,
    };
    if let Some(image) = &cache.spec.image {
        if image.is_empty() || image.chars().any(char::is_whitespace) {
            errors.push(FieldError::new(
                "spec.image",
                image,
                "write one image reference, for example registry.example/cache-node:1.2.3",
            ));
        }
        return plain(image.clone());
    }
    let update = annotation(cache, names::ANNOTATION_UPDATE);
    if let Some(value) = update
        && !matches!(value, "once" | "always")
    {
        errors.push(FieldError::new(
            &format!("metadata.annotations[{}]", names::ANNOTATION_UPDATE),
            value,
            "write once or always, or remove it",
        ));
    }
    let pinned = cache
        .status
        .as_ref()
        .and_then(|status| status.image.clone());
    match pinned {
        Some(pinned) if pinned != context.default_image && update.is_none() => Image {
            wanted: pinned,
            update_available: Some(context.default_image.clone()),
            update_taken: false,
        },
        pinned => Image {
            update_taken: update == Some("once") && pinned.as_ref() == Some(&context.default_image),
            wanted: context.default_image.clone(),
            update_available: None,
        },
    }
}

fn auth(cache: &str, spec: &CacheSpec) -> AuthSecret {
    match &spec.auth {
        Some(auth) => AuthSecret {
            name: auth.secret.name.clone(),
            key: auth.secret.key.clone(),
            generated: false,
        },
        None => AuthSecret {
            name: names::generated_auth_secret(cache),
            key: crate::api::common::DEFAULT_SECRET_KEY.into(),
            generated: true,
        },
    }
}

fn maintenance(spec: &CacheSpec, errors: &mut Vec<FieldError>) -> Option<Maintenance> {
    let maintenance = spec.maintenance.as_ref()?;
    let mut threshold = None;
    for (index, task) in maintenance.tasks.iter().enumerate() {
        let field = format!("spec.maintenance.tasks[{index}]");
        let MaintenanceTask {
            rebalance: Some(rebalance),
        } = task
        else {
            errors.push(FieldError::new(
                &field,
                "{}",
                "name a task: {rebalance: {thresholdPercent: 20}}",
            ));
            continue;
        };
        if threshold.is_some() {
            errors.push(FieldError::new(&field, "rebalance", "name each task once"));
        }
        let percent = in_range(
            &format!("{field}.rebalance.thresholdPercent"),
            rebalance.threshold_percent,
            1,
            1000,
            errors,
        );
        threshold = u32::try_from(percent).ok();
    }
    match Schedule::parse(&maintenance.schedule, maintenance.time_zone.as_deref()) {
        Ok(schedule) => Some(Maintenance {
            schedule,
            rebalance_threshold_percent: threshold,
        }),
        Err(error) => {
            errors.push(FieldError::new(
                "spec.maintenance.schedule",
                &maintenance.schedule,
                error,
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests;
