//! Whether an object as stored still is as built, so that nothing is written that is there already.

use std::fmt::Write;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::quantity::{parse_bytes, parse_millicores};

/// On every object that is applied: [`fingerprint`] of what was applied. Shows fields that are to go, which [`covers`] cannot see.
pub const ANNOTATION_APPLIED: &str = "cache.clusterdb.io/applied-hash";

/// An object as JSON, with its fingerprint as annotation.
pub fn stamped<K: Serialize>(object: &K) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(object)?;
    let hash = fingerprint(&value);
    value["metadata"]["annotations"][ANNOTATION_APPLIED] = Value::String(hash);
    Ok(value)
}

fn fingerprint(value: &Value) -> String {
    // serde_json's maps are ordered, so equal objects have equal text.
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest[..8].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether everything in `wanted` is in `stored`; what others or defaults added does not matter.
pub fn covers(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| match stored.get(key) {
                Some(stored) => covers(stored, wanted),
                // The API server drops what is empty.
                None => is_empty(wanted),
            })
        }
        (Value::Array(stored), Value::Array(wanted)) => {
            stored.len() == wanted.len()
                && stored
                    .iter()
                    .zip(wanted)
                    .all(|(stored, wanted)| covers(stored, wanted))
        }
        (Value::String(stored), Value::String(wanted)) => {
            stored == wanted || same_quantity(stored, wanted)
        }
        (stored, wanted) => stored == wanted,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// The API server writes quantities in its own way: 1024Mi as 1Gi, 1000m as 1.
fn same_quantity(a: &str, b: &str) -> bool {
    let (a, b) = (Quantity(a.into()), Quantity(b.into()));
    let same = |parse: fn(&Quantity) -> Result<u64, String>| matches!((parse(&a), parse(&b)), (Ok(a), Ok(b)) if a == b);
    same(parse_bytes) || same(parse_millicores)
}

/// The JSON merge patch (RFC 7386) that makes `old` into `new`; none if they are equal.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let mut patch: serde_json::Map<String, Value> =
        gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, new) in new {
        let change = match old.get(key) {
            Some(old) => merge_patch(old, new),
            None => Some(new.clone()),
        };
        patch.extend(change.map(|change| (key.clone(), change)));
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stored_objects_may_hold_more_but_not_other_things() {
        let wanted = json!({"a": 1, "list": [{"name": "x", "mem": "1024Mi"}], "none": {}});
        let cases = [
            (
                json!({"a": 1, "list": [{"name": "x", "mem": "1Gi", "default": true}], "b": 2}),
                true,
            ),
            (
                json!({"a": 2, "list": [{"name": "x", "mem": "1Gi"}]}),
                false,
            ),
            (
                json!({"a": 1, "list": [{"name": "x", "mem": "2Gi"}]}),
                false,
            ),
            (json!({"a": 1, "list": []}), false),
            (
                json!({"a": 1, "list": [{"name": "x", "mem": "1Gi"}, {"name": "y"}]}),
                false,
            ),
            (json!({"list": [{"name": "x", "mem": "1Gi"}]}), false),
        ];
        for (stored, expected) in cases {
            assert_eq!(covers(&stored, &wanted), expected, "{stored}");
        }
    }

    #[test]
    fn a_fingerprint_shows_what_was_removed() {
        let with = stamped(&json!({"metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}})).unwrap();
        let without = stamped(&json!({"metadata": {"name": "x"}, "spec": {"a": 1}})).unwrap();
        assert!(!covers(&with, &without));
        assert!(covers(&with, &with));
    }

    #[test]
    fn a_merge_patch_says_what_changed_and_what_goes() {
        let old = json!({"same": 1, "gone": 2, "deep": {"x": 1, "y": 2}, "list": [1, 2]});
        let new = json!({"same": 1, "new": 3, "deep": {"x": 1, "y": 5}, "list": [2]});
        let patch = merge_patch(&old, &new).unwrap();
        assert_eq!(
            patch,
            json!({"gone": null, "new": 3, "deep": {"y": 5}, "list": [2]})
        );
        assert_eq!(merge_patch(&old, &old), None);
    }
}
