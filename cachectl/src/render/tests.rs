//! What people see, compared with files that were looked at. `UPDATE_GOLDEN=1 cargo test -p cachectl` writes them anew.

use std::path::Path;

use cache_operator::api::{Cache, CacheBackup};
use jiff::Timestamp;

use super::{backups, status, unreadable, why};
use crate::source::{Happened, Unreadable};

const READY: &str = include_str!("golden/ready.yaml");
const TROUBLE: &str = include_str!("golden/trouble.yaml");
const BACKUPS: &str = include_str!("golden/backups.yaml");

fn cache(text: &str) -> Cache {
    serde_yaml::from_str(text).expect("a Cache")
}

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().expect("a time")
}

fn compare(name: &str, told: &str) {
    let plain = anstream::adapter::strip_str(told).to_string();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/render/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &plain).expect("written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        plain, golden,
        "{name}: if this is better, write it anew with UPDATE_GOLDEN=1"
    );
}

#[test]
fn a_cache_that_is_well() {
    compare("ready.status.txt", &status(&cache(READY), now()));
    compare("ready.why.txt", &why(&cache(READY), &[], now()));
}

#[test]
fn a_cache_in_trouble_while_it_scales() {
    let event = |minutes: i64, reason: &str, message: &str, warning| Happened {
        time: Timestamp::from_second(now().as_second() - 60 * minutes).expect("a time"),
        reason: reason.into(),
        message: message.into(),
        warning,
    };
    let events = [
        event(9, "Bootstrapped", "3 shards serve from empty memory", false),
        event(
            2,
            "FailedOver",
            "shard 1: main-1-1 took over from main-1-0, which is lost",
            true,
        ),
    ];
    compare("trouble.status.txt", &status(&cache(TROUBLE), now()));
    compare("trouble.why.txt", &why(&cache(TROUBLE), &events, now()));
}

#[test]
fn a_paused_cache_with_a_newer_image_says_both() {
    let mut paused = cache(READY);
    let conditions = "[{type: Ready, status: 'True', reason: Serving, message: all slots are served, lastTransitionTime: '2026-11-21T11:00:00Z'}, \
        {type: Progressing, status: 'False', reason: Paused, message: 'spec.paused is true: nothing is changed', lastTransitionTime: '2026-11-21T11:50:00Z'}, \
        {type: UpdateAvailable, status: 'True', reason: NewerImage, message: this operator's image is x, lastTransitionTime: '2026-11-21T11:55:00Z'}]";
    let status = paused.status.as_mut().expect("a status");
    status.conditions = serde_yaml::from_str(conditions).expect("conditions");
    compare("paused.why.txt", &why(&paused, &[], now()));
}

#[test]
fn backups_of_a_cache() {
    let all: Vec<CacheBackup> = serde_yaml::from_str(BACKUPS).expect("CacheBackups");
    compare("backups.txt", &backups(&all, now()));
    assert_eq!(backups(&[], now()), "");
}

#[test]
fn an_object_that_cannot_be_read_is_a_line() {
    let odd = Unreadable {
        name: "odd".into(),
        error: "invalid type: string \"three\", expected i32".into(),
    };
    compare("unreadable.txt", &unreadable("Cache", &odd));
}

#[test]
fn a_cache_that_no_operator_has_seen() {
    let new = cache(
        "{apiVersion: cache.clusterdb.io/v1alpha1, kind: Cache, metadata: {name: new, namespace: team}, spec: {}}",
    );
    compare("new.status.txt", &status(&new, now()));
    compare("new.why.txt", &why(&new, &[], now()));
}
