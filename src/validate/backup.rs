//! A CacheBackup's spec.

use super::error::{FieldError, Invalid};
use crate::api::backup::{CacheBackup, S3};
use crate::plan::cron::Schedule;

/// A validated CacheBackup.
#[derive(Clone, Debug)]
pub struct ValidBackup {
    pub name: String,
    pub namespace: String,
    pub cache: String,
    /// None: once, at once.
    pub schedule: Option<Schedule>,
    pub suspend: bool,
    pub s3: S3,
}

/// # Errors
/// All mistakes at once, each with field, value and mend.
pub fn backup(backup: &CacheBackup) -> Result<ValidBackup, Invalid> {
    let mut errors = Vec::new();
    let spec = &backup.spec;
    let schedule = match &spec.schedule {
        None => {
            if let Some(zone) = &spec.time_zone {
                errors.push(FieldError::new(
                    "spec.timeZone",
                    zone,
                    "needs a schedule: remove it, or set spec.schedule",
                ));
            }
            None
        }
        Some(text) => Schedule::parse(text, spec.time_zone.as_deref())
            .map_err(|error| errors.push(FieldError::new("spec.schedule", text, error)))
            .ok(),
    };
    if spec.storage.s3.is_none() {
        errors.push(FieldError::new(
            "spec.storage",
            "{}",
            "name where to: {s3: {bucket: ..., credentialsSecret: {name: ...}}}",
        ));
    }
    if let Some(s3) = &spec.storage.s3 {
        check_s3(s3, &mut errors);
    }
    match (&spec.storage.s3, errors.is_empty()) {
        (Some(s3), true) => Ok(ValidBackup {
            name: backup.metadata.name.clone().unwrap_or_default(),
            namespace: backup
                .metadata
                .namespace
                .clone()
                .unwrap_or_else(|| "default".into()),
            cache: spec.cache_ref.name.clone(),
            schedule,
            suspend: spec.suspend,
            s3: s3.clone(),
        }),
        _ => Err(Invalid { errors }),
    }
}

fn check_s3(s3: &S3, errors: &mut Vec<FieldError>) {
    let within = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    if !(3..=63).contains(&s3.bucket.len()) || !s3.bucket.chars().all(within) {
        errors.push(FieldError::new(
            "spec.storage.s3.bucket",
            &s3.bucket,
            "write a bucket's name, not a URL: 3 to 63 lower-case letters, digits, '.' and '-'",
        ));
    }
    if s3.prefix.starts_with('/') {
        errors.push(FieldError::new(
            "spec.storage.s3.prefix",
            &s3.prefix,
            "remove the leading '/': objects' names have none",
        ));
    }
    if let Some(endpoint) = &s3.endpoint
        && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
    {
        errors.push(FieldError::new(
            "spec.storage.s3.endpoint",
            endpoint,
            "write a URL, for example http://s3.storage.svc:7070",
        ));
    }
}
