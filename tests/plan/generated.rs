//! What is generated from `src/api` is what the repository holds.

use std::fs;
use std::path::Path;

use cache_operator::api::crds;

/// The chart has its own copies, as Helm reads nothing outside it.
const FOLDERS: [&str; 2] = ["crds", "charts/cache-operator/generated"];

/// `UPDATE_GENERATED=1 cargo test --test plan generated` writes them anew, as `make crds` does.
#[test]
fn crds_are_up_to_date() {
    let files = crds::files().expect("YAML");
    for name in FOLDERS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::create_dir_all(&folder).expect("a folder");
            for (name, content) in &files {
                fs::write(folder.join(name), content).expect("a file");
            }
        }
        for (file, content) in &files {
            let kept = fs::read_to_string(folder.join(file)).unwrap_or_default();
            assert!(
                kept == *content,
                "{name}/{file} is out of date: run `make crds`"
            );
        }
        let kept: Vec<_> = fs::read_dir(&folder).expect("a folder").collect();
        assert_eq!(
            kept.len(),
            files.len(),
            "{name} holds a file that is not generated"
        );
    }
}

/// The API server counts what a rule may cost: unbounded strings, lists or maps make it refuse the whole definition.
#[test]
fn every_string_list_and_map_of_ours_is_bounded() {
    for crd in crds::all() {
        let crd = serde_json::to_value(&crd).expect("JSON");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            let mut unbounded = Vec::new();
            walk(&schema["properties"][part], part, &mut unbounded);
            assert_eq!(
                unbounded,
                Vec::<String>::new(),
                "{}",
                crd["metadata"]["name"]
            );
        }
    }
}

fn walk(schema: &serde_json::Value, path: &str, unbounded: &mut Vec<String>) {
    // Kubernetes' own types, taken over as they are.
    let foreign = [
        "affinity",
        "tolerations",
        "topologySpreadConstraints",
        "imagePullSecrets",
        "conditions",
    ];
    if foreign.iter().any(|name| path.ends_with(name)) {
        return;
    }
    let has = |key: &str| schema.get(key).is_some();
    match schema["type"].as_str() {
        Some("string") if !has("maxLength") && !has("enum") && !has("format") => {
            unbounded.push(path.into())
        }
        Some("array") if !has("maxItems") => unbounded.push(path.into()),
        Some("object") if has("additionalProperties") && !has("maxProperties") => {
            unbounded.push(path.into())
        }
        _ => {}
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), unbounded);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            walk(inner, &format!("{path}[]"), unbounded);
        }
    }
}

/// YAML 1.1 reads these as booleans, so no enum may have them.
#[test]
fn no_enum_value_is_a_boolean_in_yaml() {
    let text = crds::stream().expect("YAML");
    for line in text.lines().map(str::trim) {
        let value = line
            .strip_prefix("- ")
            .unwrap_or_default()
            .to_ascii_lowercase();
        assert!(
            !["y", "n", "yes", "no", "on", "off", "true", "false"].contains(&value.as_str()),
            "{line}"
        );
    }
}

#[test]
fn columns_scale_and_names_are_as_promised() {
    let crd = serde_json::to_value(&crds::all()[0]).expect("JSON");
    let version = &crd["spec"]["versions"][0];
    let columns: Vec<&str> = version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|column| column.get("priority").is_none())
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert_eq!(columns, ["Shards", "Ready", "Phase", "Endpoint", "Age"]);
    assert_eq!(
        version["subresources"]["scale"],
        serde_json::json!({
            "specReplicasPath": ".spec.shards", "statusReplicasPath": ".status.shards", "labelSelectorPath": ".status.selector"
        })
    );
    let conditions =
        &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(
        conditions["x-kubernetes-list-map-keys"],
        serde_json::json!(["type"])
    );
}
