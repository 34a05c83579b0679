//! Why a backup failed, in a form that a condition, a log line and a person can use.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use serde::{Deserialize, Serialize};

/// The class of a failure; it becomes the reason of the `CacheBackup`'s condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// The job's own settings cannot work.
    BadConfiguration,
    /// The store does not accept the access key, its secret or its token.
    WrongCredentials,
    /// The credentials are known but may not do this.
    AccessDenied,
    BucketNotFound,
    /// The bucket lies in another region than the one given.
    WrongRegion,
    EndpointUnreachable,
    /// The store answered, and refused for another reason.
    StorageRefused,
    /// What the store holds is not what was sent.
    StorageMismatch,
    NodeUnreachable,
    /// The node does not accept the control password.
    WrongControlPassword,
    /// Another snapshot is being taken on every member that could give one.
    NodeBusy,
    SnapshotFailed,
    /// Slots kept moving between shards while the snapshots were taken.
    TopologyChanged,
    Interrupted,
}

impl Reason {
    /// What a person can do about it.
    pub fn mend(self) -> &'static str {
        match self {
            Reason::BadConfiguration => "correct the field that the message names",
            Reason::WrongCredentials => {
                "put a valid access key and secret into the Secret that spec.storage.s3.credentialsSecret names"
            }
            Reason::AccessDenied => {
                "allow the credentials s3:PutObject, s3:GetObject and s3:AbortMultipartUpload on the bucket"
            }
            Reason::BucketNotFound => "create the bucket, or correct spec.storage.s3.bucket",
            Reason::WrongRegion => "set spec.storage.s3.region to the region of the bucket",
            Reason::EndpointUnreachable => {
                "check spec.storage.s3.endpoint, DNS, and network policies between the backup's pod and the store"
            }
            Reason::StorageRefused => "see the store's message; the next run tries again",
            Reason::StorageMismatch => {
                "check the store: it lists another size than was sent; the next run tries again"
            }
            Reason::NodeUnreachable => "see whether the Cache is Ready; the next run tries again",
            Reason::WrongControlPassword => {
                "the Cache's control Secret and its pods disagree: restart the pods or restore the Secret"
            }
            Reason::NodeBusy => {
                "another backup of the same Cache is running; the next run tries again"
            }
            Reason::SnapshotFailed => "see the node's message and log; the next run tries again",
            Reason::TopologyChanged => {
                "wait until the Cache has finished scaling; the next run tries again"
            }
            Reason::Interrupted => {
                "the run was stopped before it finished; the next run starts anew"
            }
        }
    }

    /// Whether the same run can succeed later without a change by a person.
    pub fn is_transient(self) -> bool {
        !matches!(
            self,
            Reason::BadConfiguration
                | Reason::WrongCredentials
                | Reason::AccessDenied
                | Reason::BucketNotFound
                | Reason::WrongRegion
                | Reason::WrongControlPassword
        )
    }
}

/// A failed backup: its class and what exactly happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {}", reason.mend())]
pub struct Failure {
    pub reason: Reason,
    pub message: String,
}

impl Failure {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Failure {
            reason,
            message: message.into(),
        }
    }

    /// Names the endpoint where it is what cannot be reached: the message is all that a person sees.
    pub(super) fn at(mut self, endpoint: Option<&str>) -> Self {
        if let (Reason::EndpointUnreachable, Some(endpoint)) = (self.reason, endpoint) {
            self.message = format!("{endpoint}: {}", self.message);
        }
        self
    }

    /// Classifies what S3 answered, or that it did not.
    pub(super) fn storage<E>(what: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let reason = storage_reason(error);
        let detail = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_string(),
            _ => DisplayErrorContext(error).to_string(),
        };
        Failure::new(reason, format!("{what}: {detail}"))
    }

    /// Classifies what a node answered, or that it did not.
    pub(super) fn node(member: &str, what: &str, error: &redis::RedisError) -> Self {
        let reason = match error.kind() {
            redis::ErrorKind::AuthenticationFailed => Reason::WrongControlPassword,
            _ => match error.code() {
                Some("WRONGPASS" | "NOAUTH") => Reason::WrongControlPassword,
                Some("BUSY") => Reason::NodeBusy,
                Some(_) => Reason::SnapshotFailed,
                None => Reason::NodeUnreachable,
            },
        };
        Failure::new(reason, format!("{what} on {member}: {error}"))
    }
}

fn storage_reason<E>(error: &SdkError<E, HttpResponse>) -> Reason
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Reason::EndpointUnreachable,
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            Reason::EndpointUnreachable
        }
        // The SDK reports credentials that it could not load as a failed dispatch.
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
            let text = DisplayErrorContext(error).to_string().to_lowercase();
            if text.contains("credential") {
                Reason::WrongCredentials
            } else if matches!(error, SdkError::ConstructionFailure(_)) {
                Reason::BadConfiguration
            } else {
                Reason::EndpointUnreachable
            }
        }
        SdkError::ServiceError(service) => {
            service_reason(error.code(), service.raw().status().as_u16())
        }
        _ => Reason::StorageRefused,
    }
}

fn service_reason(code: Option<&str>, status: u16) -> Reason {
    match code {
        Some(
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "NotSignedUp"
            | "MissingSecurityHeader"
            // versitygw's answer to an access key that it does not know.
            | "XAdminUserNotFound",
        ) => Reason::WrongCredentials,
        Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem") => Reason::AccessDenied,
        Some("NoSuchBucket") => Reason::BucketNotFound,
        Some(
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "TemporaryRedirect",
        ) => Reason::WrongRegion,
        _ => match status {
            301 | 307 => Reason::WrongRegion,
            401 => Reason::WrongCredentials,
            403 => Reason::AccessDenied,
            _ => Reason::StorageRefused,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_codes_have_their_reason() {
        for (code, status, reason) in [
            (Some("SignatureDoesNotMatch"), 403, Reason::WrongCredentials),
            (Some("InvalidAccessKeyId"), 403, Reason::WrongCredentials),
            (Some("XAdminUserNotFound"), 404, Reason::WrongCredentials),
            (Some("AccessDenied"), 403, Reason::AccessDenied),
            (Some("NoSuchBucket"), 404, Reason::BucketNotFound),
            (Some("PermanentRedirect"), 301, Reason::WrongRegion),
            (
                Some("AuthorizationHeaderMalformed"),
                400,
                Reason::WrongRegion,
            ),
            (Some("SlowDown"), 503, Reason::StorageRefused),
            (None, 403, Reason::AccessDenied),
            (None, 500, Reason::StorageRefused),
        ] {
            assert_eq!(service_reason(code, status), reason, "{code:?} {status}");
        }
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let failure = Failure::new(
            Reason::BucketNotFound,
            "writing to bucket \"b\": NoSuchBucket",
        );
        assert_eq!(
            failure.to_string(),
            "writing to bucket \"b\": NoSuchBucket; create the bucket, or correct spec.storage.s3.bucket"
        );
        assert!(!failure.reason.is_transient());
        let there = Some("http://s3.example:7070");
        assert_eq!(failure.clone().at(there), failure);
        let away = Failure::new(Reason::EndpointUnreachable, "beginning").at(there);
        assert_eq!(away.message, "http://s3.example:7070: beginning");
    }
}
