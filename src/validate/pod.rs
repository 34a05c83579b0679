//! `spec.pod`: what Kubernetes would refuse later, with less of a hint.

use std::collections::BTreeMap;

use super::error::FieldError;
use crate::api::cache;
use crate::plan::desired::PodSettings;

pub fn pod(settings: Option<&cache::PodSettings>, errors: &mut Vec<FieldError>) -> PodSettings {
    let Some(settings) = settings else {
        return PodSettings::default();
    };
    check_labels("spec.pod.labels", &settings.labels, errors);
    check_labels("spec.pod.nodeSelector", &settings.node_selector, errors);
    check_keys("spec.pod.annotations", &settings.annotations, errors);
    check_keys(
        "spec.pod.serviceAccountAnnotations",
        &settings.service_account_annotations,
        errors,
    );
    for key in settings.labels.keys() {
        if key.starts_with("cache.clusterdb.io/") || key.starts_with("app.kubernetes.io/") {
            errors.push(FieldError::new(
                "spec.pod.labels",
                key,
                "labels under cache.clusterdb.io/ and app.kubernetes.io/ are the operator's: choose another prefix",
            ));
        }
    }
    PodSettings {
        labels: settings.labels.clone(),
        annotations: settings.annotations.clone(),
        node_selector: settings.node_selector.clone(),
        affinity: settings.affinity.clone(),
        tolerations: settings.tolerations.clone(),
        topology_spread_constraints: settings.topology_spread_constraints.clone(),
        priority_class_name: settings.priority_class_name.clone(),
        image_pull_secrets: settings.image_pull_secrets.clone(),
        service_account_annotations: settings.service_account_annotations.clone(),
    }
}

fn check_labels(field: &str, labels: &BTreeMap<String, String>, errors: &mut Vec<FieldError>) {
    check_keys(field, labels, errors);
    for (key, value) in labels {
        if !value.is_empty() && !is_name(value, 63) {
            errors.push(FieldError::new(
                &format!("{field}[{key}]"),
                value,
                "a label's value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit",
            ));
        }
    }
}

fn check_keys(field: &str, map: &BTreeMap<String, String>, errors: &mut Vec<FieldError>) {
    for key in map.keys() {
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key.as_str()),
        };
        let prefix_fits = prefix.is_none_or(|prefix| is_name(prefix, 253));
        if !is_name(name, 63) || !prefix_fits {
            errors.push(FieldError::new(
                field,
                key,
                "write keys as name or example.org/name: at most 63 letters, digits, '-', '_' and '.' in the name",
            ));
        }
    }
}

fn is_name(text: &str, length_max: usize) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= length_max
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
