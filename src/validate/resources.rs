//! Memory and CPU: what the pod gets, and what of it the store may fill.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::FieldError;
use crate::api::cache::{CacheSpec, ResourceList};
use crate::api::quantity::{format_bytes, parse_bytes, parse_millicores};
use crate::plan::desired::Resources;

const MIB: u64 = 1 << 20;
/// Less than this leaves nothing worth caching beside the process itself.
const MEMORY_LIMIT_MIN: u64 = 128 * MIB;
/// What connections, the log's backlog and the process need beside the store, at least.
const HEADROOM_MIN: u64 = 64 * MIB;
const MAX_MEMORY_MIN: u64 = 16 * MIB;

/// `maxMemoryPerShard` when the spec has none: the memory limit less a quarter, and less 64 MiB at least.
pub fn derived_max_memory(limit_bytes: u64) -> u64 {
    limit_bytes.saturating_sub((limit_bytes / 4).max(HEADROOM_MIN))
}

/// The pod's resources, and the bound of the store in bytes (0 only along with an error).
pub fn resources(spec: &CacheSpec, errors: &mut Vec<FieldError>) -> (Resources, u64) {
    let before = errors.len();
    let none = ResourceList::default();
    let declared = spec.resources.as_ref();
    let limits = declared.and_then(|r| r.limits.as_ref()).unwrap_or(&none);
    let requests = declared.and_then(|r| r.requests.as_ref()).unwrap_or(&none);
    let mut read = |field: &str, quantity: &Option<Quantity>, parse: Parse| {
        let quantity = quantity.as_ref()?;
        match parse(quantity) {
            Ok(0) => errors.push(FieldError::new(field, &quantity.0, "must be more than 0")),
            Ok(value) => return Some(value),
            Err(mend) => errors.push(FieldError::new(field, &quantity.0, mend)),
        }
        None
    };
    let memory_limit = read("spec.resources.limits.memory", &limits.memory, parse_bytes);
    let memory_request = read(
        "spec.resources.requests.memory",
        &requests.memory,
        parse_bytes,
    );
    let cpu_limit = read("spec.resources.limits.cpu", &limits.cpu, parse_millicores);
    let cpu_request = read(
        "spec.resources.requests.cpu",
        &requests.cpu,
        parse_millicores,
    );
    let asked = spec
        .policy
        .as_ref()
        .and_then(|policy| policy.max_memory_per_shard.clone());
    let explicit = read("spec.policy.maxMemoryPerShard", &asked, parse_bytes);

    let mut exceeds =
        |field: &str, request: Option<u64>, limit: Option<u64>, text: &Option<Quantity>| {
            if let (Some(request), Some(limit), Some(text)) = (request, limit, text)
                && request > limit
            {
                errors.push(FieldError::new(
                    field,
                    &text.0,
                    "must not exceed the limit: lower it, or raise the limit",
                ));
            }
        };
    exceeds(
        "spec.resources.requests.memory",
        memory_request,
        memory_limit,
        &requests.memory,
    );
    exceeds(
        "spec.resources.requests.cpu",
        cpu_request,
        cpu_limit,
        &requests.cpu,
    );

    let max_memory = if errors.len() == before {
        max_memory(memory_limit, explicit, errors)
    } else {
        0
    };
    (as_kubernetes_takes_them(limits, requests), max_memory)
}

type Parse = fn(&Quantity) -> Result<u64, String>;

fn max_memory(limit: Option<u64>, explicit: Option<u64>, errors: &mut Vec<FieldError>) -> u64 {
    if let Some(limit) = limit
        && limit < MEMORY_LIMIT_MIN
    {
        errors.push(FieldError::new(
            "spec.resources.limits.memory",
            format_bytes(limit),
            "use at least 128Mi: a quarter, and 64Mi at least, is kept for connections and the process",
        ));
        return 0;
    }
    match (explicit, limit) {
        (None, None) => {
            errors.push(FieldError::new(
                "spec.resources.limits.memory",
                "",
                "the cache needs a bound: set a memory limit, for example 1Gi, or spec.policy.maxMemoryPerShard",
            ));
            0
        }
        (None, Some(limit)) => derived_max_memory(limit),
        (Some(explicit), limit) => {
            if explicit < MAX_MEMORY_MIN {
                errors.push(FieldError::new(
                    "spec.policy.maxMemoryPerShard",
                    format_bytes(explicit),
                    "use at least 16Mi",
                ));
            }
            if let Some(limit) = limit
                && explicit > limit - HEADROOM_MIN
            {
                errors.push(FieldError::new(
                    "spec.policy.maxMemoryPerShard",
                    format_bytes(explicit),
                    format!(
                        "leave 64Mi of the memory limit for connections and the process: use at most {}, or raise spec.resources.limits.memory",
                        format_bytes(limit - HEADROOM_MIN)
                    ),
                ));
            }
            explicit
        }
    }
}

fn as_kubernetes_takes_them(limits: &ResourceList, requests: &ResourceList) -> Resources {
    let map = |cpu: Option<&Quantity>, memory: Option<&Quantity>| {
        let cpu = cpu.map(|quantity| ("cpu".to_string(), quantity.clone()));
        let memory = memory.map(|quantity| ("memory".to_string(), quantity.clone()));
        cpu.into_iter().chain(memory).collect::<BTreeMap<_, _>>()
    };
    Resources {
        limits: map(limits.cpu.as_ref(), limits.memory.as_ref()),
        // A cache fills its memory: asking for less than the limit invites eviction of the pod.
        requests: map(
            requests.cpu.as_ref(),
            requests.memory.as_ref().or(limits.memory.as_ref()),
        ),
    }
}
