//! Manifests: the examples are valid by every rule, and each of `invalid/` is refused with a message that says the mend. Schema and rules are judged
//! here as an API server would; the end-to-end tests have cases of their own for a real one.

use std::fs;
use std::path::Path;

use cache_operator::api::topology::Addressing;
use cache_operator::api::{Cache, CacheBackup, CacheRegion, crds};
use cache_operator::plan::Limits;
use cache_operator::validate;
use serde::Deserialize;
use serde_json::Value;

fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<(String, String)> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (
                path.display().to_string(),
                fs::read_to_string(&path).expect("a file"),
            )
        })
        .collect();
    files.sort();
    files
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect()
}

fn schema(kind: &str) -> Value {
    let crd = crds::all()
        .into_iter()
        .find(|crd| crd.spec.names.kind == kind)
        .expect("one of our kinds");
    serde_json::to_value(crd).expect("JSON")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        .clone()
}

/// What the API server does before the rules: fills in defaults.
fn with_defaults(schema: &Value, value: &mut Value) {
    let (Some(properties), Some(object)) =
        (schema["properties"].as_object(), value.as_object_mut())
    else {
        return;
    };
    for (name, property) in properties {
        if let Some(default) = property.get("default") {
            object.entry(name).or_insert_with(|| default.clone());
        }
        if let Some(inner) = object.get_mut(name) {
            with_defaults(property, inner);
        }
    }
}

/// The schema's refusals, as far as our schemas use them: (path, what is wrong).
fn schema_errors(schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_string() && !value.is_i64() {
            errors.push(format!("{path}: is neither an integer nor a string"));
        }
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        _ => true,
    };
    if !fits {
        errors.push(format!("{path}: is not of type {}", schema["type"]));
        return;
    }
    let number = value.as_i64();
    let length = value
        .as_str()
        .map(str::len)
        .or(value.as_array().map(Vec::len))
        .and_then(|length| i64::try_from(length).ok());
    for (limit, actual, above) in [
        ("minimum", number, false),
        ("maximum", number, true),
        ("minLength", length, false),
        ("maxLength", length, true),
        ("minItems", length, false),
        ("maxItems", length, true),
    ] {
        if let (Some(limit), Some(actual)) = (schema[limit].as_f64(), actual)
            && ((above && actual as f64 > limit) || (!above && (actual as f64) < limit))
        {
            errors.push(format!("{path}: {actual} is beyond {limit}"));
        }
    }
    for required in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if value.get(required).is_none() {
            errors.push(format!("{path}.{required}: is required"));
        }
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        match (
            schema["properties"].get(name),
            schema.get("additionalProperties"),
        ) {
            (Some(property), _) | (None, Some(property)) => {
                schema_errors(property, inner, &format!("{path}.{name}"), errors)
            }
            // kubectl asks the API server for strict validation.
            (None, None) if schema["properties"].is_object() && path != "metadata" => {
                errors.push(format!("{path}.{name}: is not known"));
            }
            _ => {}
        }
    }
    for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
        schema_errors(&schema["items"], inner, &format!("{path}[{index}]"), errors);
    }
}

/// The rules' refusals: of the object as a whole, and of every part that has rules.
fn rule_errors(value: &Value) -> Vec<String> {
    let refused = match value["kind"].as_str() {
        Some("Cache") => {
            let object: Cache = serde_json::from_value(value.clone()).expect("a Cache");
            object.validate_cel().err()
        }
        Some("CacheRegion") => {
            let object: CacheRegion = serde_json::from_value(value.clone()).expect("a CacheRegion");
            object.validate_cel().err()
        }
        _ => {
            let object: CacheBackup = serde_json::from_value(value.clone()).expect("a CacheBackup");
            object.validate_cel().err()
        }
    };
    refused
        .map(|errors| vec![errors.to_string()])
        .unwrap_or_default()
}

fn checked(value: &Value) -> (Vec<String>, Vec<String>) {
    let kind = value["kind"].as_str().unwrap_or_default();
    let schema = schema(kind);
    let mut value = value.clone();
    with_defaults(&schema, &mut value);
    let mut errors = Vec::new();
    schema_errors(
        &schema["properties"]["spec"],
        &value["spec"],
        "spec",
        &mut errors,
    );
    // Rules are not asked when the schema refuses.
    let rules = if errors.is_empty() {
        rule_errors(&value)
    } else {
        Vec::new()
    };
    (errors, rules)
}

fn is_ours(value: &Value) -> bool {
    value["apiVersion"] == "cache.clusterdb.io/v1alpha1"
}

#[test]
fn examples_are_valid() {
    let context = validate::Context {
        default_image: "example/cache-node:1".into(),
        addressing: Addressing::Pods {
            service: "s".into(),
            namespace: "n".into(),
        },
        regions: Vec::new(),
        limits: Limits::default(),
    };
    let mut seen = 0;
    for (file, text) in files("examples") {
        for document in documents(&text).iter().filter(|document| is_ours(document)) {
            let (schema, rules) = checked(document);
            assert!(
                schema.is_empty() && rules.is_empty(),
                "{file}: {schema:?} {rules:?}"
            );
            seen += 1;
            if document["kind"] == "Cache" {
                let object = serde_json::from_value(document.clone()).expect("a Cache");
                validate::cache(&object, &context)
                    .unwrap_or_else(|error| panic!("{file}: {error}"));
            } else if document["kind"] == "CacheRegion" {
                let object = serde_json::from_value(document.clone()).expect("a CacheRegion");
                validate::regions::region(&object)
                    .unwrap_or_else(|error| panic!("{file}: {error}"));
            } else {
                let object = serde_json::from_value(document.clone()).expect("a CacheBackup");
                validate::backup(&object).unwrap_or_else(|error| panic!("{file}: {error}"));
            }
        }
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn invalid_manifests_are_refused_with_the_mend() {
    let files = files("tests/plan/invalid");
    assert!(files.len() >= 20);
    for (file, text) in files {
        let header = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("# {name}: ")));
            line.unwrap_or_else(|| panic!("{file} does not say {name}"))
                .to_string()
        };
        let (by, message) = (header("refused by"), header("message"));
        let (schema, rules) = checked(&documents(&text)[0]);
        let said = if by == "schema" {
            schema.join("; ")
        } else {
            rules.join("; ")
        };
        assert!(
            said.contains(&message),
            "{file}: by {by}, said {said:?}, schema {schema:?}, rules {rules:?}"
        );
    }
}

#[test]
fn what_cannot_change_is_refused() {
    let backup = |spec: Value| -> CacheBackup {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "cache.clusterdb.io/v1alpha1", "kind": "CacheBackup", "metadata": {"name": "daily"}, "spec": spec,
        }))
        .expect("a CacheBackup")
    };
    let storage = serde_json::json!({"s3": {"bucket": "cache-backup"}});
    let once = backup(serde_json::json!({"cacheRef": {"name": "main"}, "storage": storage}));
    let nightly = backup(
        serde_json::json!({"cacheRef": {"name": "main"}, "schedule": "0 2 * * *", "storage": storage}),
    );
    let hourly = backup(
        serde_json::json!({"cacheRef": {"name": "main"}, "schedule": "0 * * * *", "storage": storage}),
    );
    let other = backup(serde_json::json!({"cacheRef": {"name": "other"}, "storage": storage}));
    assert!(hourly.validate_cel_update(&nightly).is_ok());
    for (new, old, message) in [
        (
            &nightly,
            &once,
            "whether a CacheBackup has a schedule cannot be changed",
        ),
        (
            &once,
            &nightly,
            "whether a CacheBackup has a schedule cannot be changed",
        ),
        (&other, &once, "cacheRef cannot be changed"),
    ] {
        let refused = new.validate_cel_update(old).expect_err(message).to_string();
        assert!(refused.contains(message), "{refused}");
    }
}
