//! The members' ServiceAccount: it has no rights, but clouds hang permissions on its annotations.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::labels::{Owner, cache_labels};
use crate::plan::Desired;

pub fn service_account(desired: &Desired) -> ServiceAccount {
    let mut metadata =
        Owner::cache(desired).metadata(desired.name.clone(), cache_labels(&desired.name));
    let annotations = &desired.pod.service_account_annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    ServiceAccount {
        metadata,
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
