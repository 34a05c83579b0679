//! Names, labels and annotations of everything that belongs to a Cache.

use std::collections::BTreeMap;

pub const GROUP: &str = "cache.clusterdb.io";
pub const VERSION: &str = "v1alpha1";
/// The field manager of server-side apply, and the reporter of events.
pub const MANAGER: &str = "cache-operator";

pub const LABEL_NAME: &str = "app.kubernetes.io/name";
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`LABEL_NAME`].
pub const APP_NAME: &str = "clusterdb-cache";

/// The Cache an object belongs to.
pub const LABEL_CACHE: &str = "cache.clusterdb.io/cache";
/// The shard's name of a member's objects.
pub const LABEL_SHARD: &str = "cache.clusterdb.io/shard";
/// The member's index within its shard, from 0.
pub const LABEL_MEMBER_INDEX: &str = "cache.clusterdb.io/member-index";
/// The member's name, which is also its StatefulSet's.
pub const LABEL_MEMBER: &str = "cache.clusterdb.io/member";
/// The role of a member's pod as last written by the operator: `primary`, `replica` or `learner`.
pub const LABEL_ROLE: &str = "cache.clusterdb.io/role";

/// On a Cache: any new value rolls its members, one at a time.
pub const ANNOTATION_RESTART: &str = "cache.clusterdb.io/restart";
/// On a Cache: `once` or `always` lets an operator's newer default image roll it.
pub const ANNOTATION_UPDATE: &str = "cache.clusterdb.io/update";
/// On a member's StatefulSet and pod: [`crate::plan::Desired::template_hash`] it was made from.
pub const ANNOTATION_TEMPLATE: &str = "cache.clusterdb.io/template-hash";

/// The application port.
pub const PORT: u16 = 6379;
pub const CONTROL_PORT: u16 = 7379;
pub const METRICS_PORT: u16 = 9121;

/// Slots of the key space.
pub const SLOTS: u16 = 16384;
/// The most shards of a Cache; with it the longest member name of a 46-character Cache still names a StatefulSet (52).
pub const SHARDS_MAX: u16 = 128;
pub const REPLICAS_PER_SHARD_MAX: u8 = 5;
pub const CACHE_NAME_LENGTH_MAX: usize = 46;

/// `<cache>-<shard>-<index>`.
pub fn member(cache: &str, shard: &str, index: u8) -> String {
    format!("{cache}-{shard}-{index}")
}

/// Shard and index of a member of `cache`; none if the name is not one.
pub fn parse_member<'a>(cache: &str, member: &'a str) -> Option<(&'a str, u8)> {
    let rest = member.strip_prefix(cache)?.strip_prefix('-')?;
    let (shard, index) = rest.split_once('-')?;
    let number: u16 = shard.parse().ok()?;
    let parsed: u8 = index.parse().ok()?;
    // Only the canonical form: no leading zeros or signs.
    (number.to_string() == shard && parsed.to_string() == index).then_some((shard, parsed))
}

/// The headless Service that names the members.
pub fn nodes_service(cache: &str) -> String {
    format!("{cache}-nodes")
}

/// The pod of a member's StatefulSet.
pub fn pod(member: &str) -> String {
    format!("{member}-0")
}

/// The Secret with the applications' password that is generated when the spec names none.
pub fn generated_auth_secret(cache: &str) -> String {
    format!("{cache}-auth")
}

/// The labels of a member's objects and pod.
pub fn member_labels(cache: &str, shard: &str, index: u8) -> BTreeMap<String, String> {
    [
        (LABEL_NAME, APP_NAME.to_string()),
        (LABEL_INSTANCE, cache.to_string()),
        (LABEL_MANAGED_BY, MANAGER.to_string()),
        (LABEL_CACHE, cache.to_string()),
        (LABEL_SHARD, shard.to_string()),
        (LABEL_MEMBER_INDEX, index.to_string()),
        (LABEL_MEMBER, member(cache, shard, index)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), value))
    .collect()
}

/// Matches exactly one pod a shard, as the HPA multiplies by the pods it matches.
pub fn one_pod_a_shard_selector(cache: &str) -> String {
    format!("{LABEL_CACHE}={cache},{LABEL_MEMBER_INDEX}=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_round_trip() {
        assert_eq!(member("web-1", "12", 3), "web-1-12-3");
        assert_eq!(parse_member("web-1", "web-1-12-3"), Some(("12", 3)));
        assert_eq!(parse_member("web", "web-1-12-3"), None);
        assert_eq!(parse_member("web", "web-01-3"), None);
        assert_eq!(parse_member("web", "web-1-+3"), None);
        assert_eq!(parse_member("web", "web-1"), None);
    }

    #[test]
    fn longest_member_name_fits_a_stateful_set() {
        let cache = "c".repeat(CACHE_NAME_LENGTH_MAX);
        let shard = (SHARDS_MAX - 1).to_string();
        assert_eq!(member(&cache, &shard, REPLICAS_PER_SHARD_MAX).len(), 52);
    }
}
