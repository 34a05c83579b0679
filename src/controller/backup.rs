//! The controller of CacheBackups: sees, asks `backup_plan`, and makes Jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::Context;
use super::backup_plan::{self, BackupPlan, BackupSeen, Obstacle, RunSeen, RunState};
use super::context::backoff;
use crate::api::cache::{Cache, Phase};
use crate::api::common::Time;
use crate::api::{CacheBackup, CacheBackupStatus};
use crate::backup::Report;
use crate::build::{self, BackupRunSpec, LABEL_BACKUP, Owner, diff};
use crate::node::now_ms;
use crate::observe::members;
use crate::plan::steps::Told;
use crate::platform::{CacheKey, Error, Stored};
use crate::validate::{self, ValidBackup};

/// After its Job ended, how long a pod may take to tell its result.
const RESULT_PATIENCE_MS: u64 = 10_000;
/// How often a failing turn is tried again at first; doubled in `context::backoff`.
const FAILURES_ASSUMED: u32 = 5;

/// One turn of one CacheBackup.
pub async fn turn(context: Arc<Context>, key: CacheKey) -> Option<Duration> {
    context.show_undecodable();
    let found = context.stores.backups.get(&key.namespace, &key.name);
    let backup = match found.as_deref() {
        None => return None,
        Some(DeserializeGuard(Ok(backup))) => backup.clone(),
        Some(guard @ DeserializeGuard(Err(invalid))) => {
            tracing::warn!(backup = %key, error = invalid.error, "cannot be read");
            let told = Told {
                reason: "Unreadable",
                message: format!(
                    "the operator cannot read this CacheBackup and leaves it as it is: {}",
                    invalid.error
                ),
                warning: true,
            };
            context.events.tell(&guard.object_ref(&()), told);
            return None;
        }
    };
    if backup.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let begun = Instant::now();
    let (result, again) = match reconcile(&context, &backup).await {
        Ok(again) => ("done", again),
        Err(Error::NamespaceTerminating(_)) => ("namespace terminating", None),
        Err(error) => {
            tracing::warn!(backup = %key, %error, "reconcile failed");
            ("failed", Some(backoff(FAILURES_ASSUMED)))
        }
    };
    context
        .metrics
        .reconciled("backup", result, begun.elapsed());
    again
}

async fn reconcile(context: &Context, backup: &CacheBackup) -> Result<Option<Duration>, Error> {
    let previous = backup.status.clone().unwrap_or_default();
    let generation = backup.metadata.generation.unwrap_or_default();
    let valid = match validate::backup(backup) {
        Ok(valid) => valid,
        Err(error) => {
            let status = backup_plan::invalid(generation, &previous, &error.to_string(), now_ms());
            write(context, backup, &status).await?;
            return Ok(None);
        }
    };
    let key = CacheKey::new(&valid.namespace, &valid.cache);
    let cache = context.stores.caches.get(&key.namespace, &key.name);
    let cache = cache.as_deref().and_then(|guard| guard.0.as_ref().ok());
    let now = now_ms();
    let seen = BackupSeen {
        name: &valid.name,
        generation,
        created_ms: millis(backup.metadata.creation_timestamp.as_ref()),
        schedule: valid.schedule.as_ref(),
        suspend: valid.suspend,
        previous: &previous,
        obstacle: obstacle(context, &valid, cache).await?,
        runs: runs(context, &valid, &key, now),
        now_ms: now,
    };
    let plan = backup_plan::plan(&seen);
    carry_out(context, backup, &valid, cache, &plan).await?;
    Ok(plan.again_in_ms.map(Duration::from_millis))
}

async fn carry_out(
    context: &Context,
    backup: &CacheBackup,
    valid: &ValidBackup,
    cache: Option<&Cache>,
    plan: &BackupPlan,
) -> Result<(), Error> {
    if !context.leadership.may_write() {
        return Err(Error::NotLeading);
    }
    // The Job first: a crash after it is seen from the Job, a crash before it is made up for.
    if let (Some(name), Some(cache)) = (&plan.begin, cache) {
        let uid = cache.uid().unwrap_or_default();
        let pod = cache.spec.pod.clone().unwrap_or_default();
        let job = build::backup_job(&BackupRunSpec {
            owner: Owner {
                kind: "CacheBackup",
                namespace: valid.namespace.clone(),
                name: valid.name.clone(),
                uid: backup.uid().unwrap_or_default(),
            },
            name,
            cache: &valid.cache,
            cache_uid: &uid,
            image: &context.self_image,
            s3: &valid.s3,
            pod: &pod,
        });
        context
            .writer
            .ensure_once(&context.stores.jobs, &job)
            .await?;
    }
    for name in &plan.delete {
        if let Some(job) = context.stores.jobs.get(&valid.namespace, name)
            && job.metadata.deletion_timestamp.is_none()
        {
            context.writer.delete(job.as_ref()).await?;
        }
    }
    write(context, backup, &plan.status).await?;
    let about = backup.object_ref(&());
    for (warning, reason, message) in plan.told.clone() {
        context.events.tell(
            &about,
            Told {
                reason,
                message,
                warning,
            },
        );
    }
    Ok(())
}

async fn write(
    context: &Context,
    backup: &CacheBackup,
    status: &CacheBackupStatus,
) -> Result<(), Error> {
    let value = |status: &CacheBackupStatus| {
        serde_json::to_value(status).map_err(|e| Error::Other(e.to_string()))
    };
    let old = match &backup.status {
        Some(status) => value(status)?,
        None => json!({}),
    };
    let Some(change) = diff::merge_patch(&old, &value(status)?) else {
        return Ok(());
    };
    match context.writer.swap_status(backup, change).await? {
        (Stored::Yes, Some(written)) => {
            context.stores.backups.put(DeserializeGuard(Ok(written)));
            Ok(())
        }
        (Stored::Yes, None) => Ok(()),
        (Stored::Conflict, _) => Err(Error::Stale(format!(
            "the newest version of {}",
            backup.name_any()
        ))),
    }
}

/// Why no run can begin now.
async fn obstacle(
    context: &Context,
    valid: &ValidBackup,
    cache: Option<&Cache>,
) -> Result<Option<Obstacle>, Error> {
    let Some(cache) = cache else {
        let message = format!(
            "Cache {} is not there: create it, or correct spec.cacheRef.name",
            valid.cache
        );
        return Ok(Some(Obstacle::CacheNotFound(message)));
    };
    let status = cache.status.clone().unwrap_or_default();
    let creating = matches!(
        status.phase,
        None | Some(Phase::Creating | Phase::Invalid | Phase::Deleting)
    );
    if creating || status.topology.is_none() || cache.metadata.deletion_timestamp.is_some() {
        let message = format!("waits until Cache {} serves", valid.cache);
        return Ok(Some(Obstacle::CacheNotReady(message)));
    }
    let Some(secret) = &valid.s3.credentials_secret else {
        return Ok(None);
    };
    let mut like = Secret::default();
    like.metadata.namespace = Some(valid.namespace.clone());
    like.metadata.name = Some(secret.name.clone());
    Ok(match context.writer.look(&like).await? {
        Some(_) => None,
        None => Some(Obstacle::SecretMissing(format!(
            "Secret {} is not there: create it with the keys accessKeyID and secretAccessKey",
            secret.name
        ))),
    })
}

fn runs(context: &Context, valid: &ValidBackup, key: &CacheKey, now_ms: u64) -> Vec<RunSeen> {
    let own = |object: &dyn Fn(&str) -> Option<String>| {
        object(LABEL_BACKUP).as_deref() == Some(valid.name.as_str())
    };
    let pods = context.stores.pods.group(key);
    let jobs = context.stores.jobs.group(key);
    let of_this = jobs
        .iter()
        .filter(|job| own(&|label| job.labels().get(label).cloned()));
    of_this
        .map(|job| {
            let name = job.name_any();
            let pod = pods
                .iter()
                .find(|pod| pod.labels().get("batch.kubernetes.io/job-name") == Some(&name));
            RunSeen {
                created_ms: millis(job.metadata.creation_timestamp.as_ref()),
                state: run_state(job, pod.map(|pod| pod.as_ref()), now_ms),
                name,
            }
        })
        .collect()
}

/// What a Job and its pod say.
fn run_state(job: &Job, pod: Option<&Pod>, now_ms: u64) -> RunState {
    let mut conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let end = conditions.find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    });
    let ended = pod.and_then(|pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let backup = statuses.iter().find(|status| status.name == "backup")?;
        backup.state.as_ref()?.terminated.clone()
    });
    let Some(end) = end else {
        // The Job follows its pod by a moment.
        return match ended {
            Some(_) => RunState::Ending,
            None => RunState::Running(pod.and_then(|pod| members::problem(pod, "backup"))),
        };
    };
    let since_ms = now_ms.saturating_sub(millis(end.last_transition_time.as_ref()));
    let Some(ended) = ended else {
        if since_ms < RESULT_PATIENCE_MS {
            return RunState::Ending;
        }
        let why = [end.reason.as_deref(), end.message.as_deref()];
        let why: Vec<&str> = why.into_iter().flatten().collect();
        return RunState::Silent(format!("its pod told no result ({})", why.join(": ")));
    };
    let message = ended.message.clone().unwrap_or_default();
    match serde_json::from_str::<Report>(&message) {
        Ok(report) => RunState::Reported(Box::new(report)),
        Err(_) => RunState::Silent(format!(
            "exit code {}{}{}",
            ended.exit_code,
            ended
                .reason
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default(),
            if message.is_empty() {
                String::new()
            } else {
                format!(": {message}")
            },
        )),
    }
}

fn millis(time: Option<&Time>) -> u64 {
    time.and_then(|time| u64::try_from(time.0.as_millisecond()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(conditions: serde_json::Value) -> Job {
        serde_json::from_value(
            json!({"metadata": {"name": "j"}, "status": {"conditions": conditions}}),
        )
        .unwrap()
    }

    fn pod(terminated: serde_json::Value) -> Pod {
        let status = json!({"name": "backup", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": terminated}});
        serde_json::from_value(
            json!({"metadata": {"name": "j-x"}, "status": {"containerStatuses": [status]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_jobs_state_is_its_pods_report() {
        let at = "2026-01-01T00:00:00Z";
        let at_ms = 1_767_225_600_000;
        let failed = job(
            json!([{"type": "Failed", "status": "True", "lastTransitionTime": at, "reason": "BackoffLimitExceeded"}]),
        );
        let open = job(json!([{"type": "Failed", "status": "False", "lastTransitionTime": at}]));
        assert_eq!(run_state(&open, None, at_ms), RunState::Running(None));
        assert_eq!(run_state(&failed, None, at_ms + 1_000), RunState::Ending);
        let just_ended = pod(json!({"exitCode": 0}));
        assert_eq!(run_state(&open, Some(&just_ended), at_ms), RunState::Ending);
        let silent = run_state(&failed, None, at_ms + 60_000);
        assert!(
            matches!(&silent, RunState::Silent(why) if why.contains("BackoffLimitExceeded")),
            "{silent:?}"
        );
        let report =
            r#"{"outcome":"Failed","snapshot":"s","reason":"AccessDenied","message":"no"}"#;
        let told = run_state(
            &failed,
            Some(&pod(json!({"exitCode": 2, "message": report}))),
            at_ms,
        );
        assert!(
            matches!(&told, RunState::Reported(report) if report.message.as_deref() == Some("no")),
            "{told:?}"
        );
        let killed = run_state(
            &failed,
            Some(&pod(json!({"exitCode": 137, "reason": "OOMKilled"}))),
            at_ms,
        );
        assert_eq!(killed, RunState::Silent("exit code 137 (OOMKilled)".into()));
    }
}
