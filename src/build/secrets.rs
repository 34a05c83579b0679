//! Generated passwords. They are created once and never overwritten.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::labels::{Owner, cache_labels};
use crate::plan::Desired;

pub const PASSWORD_KEY: &str = "password";

/// `password` comes from outside: what is built here is not random.
pub fn password_secret(desired: &Desired, name: String, password: &str) -> Secret {
    Secret {
        metadata: Owner::cache(desired).metadata(name, cache_labels(&desired.name)),
        type_: Some("Opaque".into()),
        data: Some([(PASSWORD_KEY.to_string(), ByteString(password.into()))].into()),
        ..Secret::default()
    }
}
