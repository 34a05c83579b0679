//! The controller of Caches.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};

use super::context::Context;
use super::driver::{self, Round};
use super::platform::KubePlatform;
use crate::api::cache::Cache;
use crate::api::names;
use crate::api::region::CacheRegion;
use crate::api::topology::Addressing;
use crate::metrics::Shown;
use crate::plan::steps::Told;
use crate::plan::{Limits, Link, WaitReason, Waiting};
use crate::platform::{CacheKey, Error, Platform};
use crate::validate;

/// One turn of one Cache. Answers when to come again without being asked; never for one that is gone.
pub async fn turn(context: Arc<Context>, key: CacheKey) -> Option<Duration> {
    context.show_undecodable();
    let found = context.stores.caches.get(&key.namespace, &key.name);
    let cache = match found.as_deref() {
        None => {
            context.forget(&key);
            return None;
        }
        Some(DeserializeGuard(Ok(cache))) => cache.clone(),
        Some(guard @ DeserializeGuard(Err(invalid))) => {
            undecodable(&context, guard, &invalid.error);
            return None;
        }
    };
    let begun = Instant::now();
    let platform = KubePlatform {
        context: context.clone(),
        key: key.clone(),
    };
    let result = driver::reconcile(&platform, &cache, &validation(&context, &key)).await;
    let (name, again) = match result {
        Ok(round) => ended(&platform, &round),
        Err(error) => failed(&platform, &error),
    };
    context.metrics.reconciled("cache", name, begun.elapsed());
    again
}

pub(super) fn validation(context: &Context, key: &CacheKey) -> validate::Context {
    validate::Context {
        default_image: context.cache_image.clone(),
        addressing: Addressing::Pods {
            service: names::nodes_service(&key.name),
            namespace: key.namespace.clone(),
        },
        limits: Limits::default(),
        regions: regions(context, key),
    }
}

/// The Cache's CacheRegions that can be read.
fn regions(context: &Context, key: &CacheKey) -> Vec<CacheRegion> {
    let group = context.stores.regions.group(key);
    let readable = group.iter().filter_map(|guard| guard.0.as_ref().ok());
    readable.cloned().collect()
}

/// Makes a round known: metrics, events about new waits, and when to come again.
fn ended(platform: &KubePlatform, round: &Round) -> (&'static str, Option<Duration>) {
    let (context, key) = (&platform.context, &platform.key);
    let reasons: BTreeSet<WaitReason> = round.waiting().map(|waiting| waiting.reason).collect();
    let (tell, look_again) =
        context.memory(key, |memory| memory.waits_to_tell(&reasons, Instant::now()));
    let told = round
        .waiting()
        .filter(|waiting| tell.contains(&waiting.reason))
        .map(told);
    platform.tell(told.collect());
    let members = context.hub.view(key);
    let connected = members.values().filter(|view| view.link == Link::Connected);
    let topology = round.status.topology.as_ref();
    context.metrics.show(
        key,
        Shown {
            phase: round
                .status
                .phase
                .map(|phase| format!("{phase:?}"))
                .unwrap_or_default(),
            waiting: reasons.iter().map(|reason| reason.as_str()).collect(),
            epoch: topology.map_or(0, |topology| topology.epoch),
            members_connected: connected.count(),
            members: members.len(),
        },
    );
    let failure = round
        .failed
        .as_ref()
        .map(|(step, why)| format!("cannot {step}: {why}"));
    tell_failure(platform, failure);
    let patience = context.memory(key, |memory| memory.patience(round.failed.is_some()));
    match round.failed {
        Some(_) => ("step failed", Some(patience)),
        None => {
            let again = look_again.map_or(round.again, |look| look.min(round.again));
            ("done", Some(again))
        }
    }
}

fn told(waiting: &Waiting) -> Told {
    Told {
        reason: waiting.reason.as_str(),
        message: waiting.message.clone(),
        warning: waiting.reason.is_trouble(),
    }
}

fn tell_failure(platform: &KubePlatform, failure: Option<String>) {
    let is_new = platform.context.memory(&platform.key, |memory| {
        memory.is_new_failure(failure.clone())
    });
    if let Some(message) = failure.filter(|_| is_new) {
        platform.tell(vec![Told {
            reason: "StepFailed",
            message,
            warning: true,
        }]);
    }
}

fn failed(platform: &KubePlatform, error: &Error) -> (&'static str, Option<Duration>) {
    let (context, key) = (&platform.context, &platform.key);
    let patience = context.memory(key, |memory| memory.patience(true));
    match error {
        // All of it goes away by itself.
        Error::NamespaceTerminating(_) => {
            tracing::debug!(cache = %key, %error, "left alone");
            ("namespace terminating", None)
        }
        Error::Stale(_) | Error::NotLeading => {
            tracing::debug!(cache = %key, %error, "looked again");
            ("stale", Some(patience))
        }
        error => {
            let message = error.to_string();
            tracing::warn!(cache = %key, error = message, "reconcile failed");
            tell_failure(platform, Some(message));
            ("failed", Some(patience))
        }
    }
}

/// Such an object stalls nothing else, and says so where its owner looks.
fn undecodable(context: &Context, guard: &DeserializeGuard<Cache>, error: &str) {
    tracing::warn!(
        cache = guard.name_any(),
        namespace = guard.namespace(),
        error,
        "cannot be read"
    );
    let told = Told {
        reason: "Unreadable",
        message: format!("the operator cannot read this Cache and leaves it as it is: {error}"),
        warning: true,
    };
    context.events.tell(&guard.object_ref(&()), told);
}
