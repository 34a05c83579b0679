//! What a run tells: one line of JSON on stdout, and the same, kept short, as the container's termination message.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Failure, Manifest, Reason};

/// The kubelet cuts a termination message off here.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;
const MESSAGE_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Completed,
    Failed,
}

/// The result of one run. On success the place and the sums are set, on failure reason, message and mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub outcome: Outcome,
    pub snapshot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Report {
    pub fn completed(manifest: &Manifest, location: String) -> Self {
        Report {
            outcome: Outcome::Completed,
            snapshot: manifest.snapshot.clone(),
            location: Some(location),
            epoch: Some(manifest.epoch),
            shards: Some(manifest.shards.len()),
            keys: Some(manifest.keys),
            bytes: Some(manifest.bytes),
            started_at: Some(manifest.started_at),
            finished_at: Some(manifest.finished_at),
            reason: None,
            message: None,
            mend: None,
        }
    }

    pub fn failed(snapshot: &str, failure: &Failure) -> Self {
        let mut message = failure.message.replace(char::is_control, " ");
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        Report {
            outcome: Outcome::Failed,
            snapshot: snapshot.to_string(),
            location: None,
            epoch: None,
            shards: None,
            keys: None,
            bytes: None,
            started_at: None,
            finished_at: None,
            reason: Some(failure.reason),
            message: Some(message),
            mend: Some(failure.reason.mend().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_report_fits_a_termination_message_and_reads_back() {
        // Four bytes a character, and control characters that JSON writes as six.
        for text in ["\u{1f5dd}", "\u{1}"] {
            let failure = Failure::new(Reason::WrongCredentials, text.repeat(10_000));
            let told = serde_json::to_string(&Report::failed(&"s".repeat(253), &failure));
            let told = told.expect("plain data");
            assert!(
                told.len() <= TERMINATION_MESSAGE_BYTES_MAX,
                "{}",
                told.len()
            );
        }
        let short = Report::failed(
            "daily-1",
            &Failure::new(Reason::AccessDenied, "x".repeat(10_000)),
        );
        let told = serde_json::to_string(&short).expect("plain data");
        assert!(told.len() <= TERMINATION_MESSAGE_BYTES_MAX);
        assert_eq!(
            serde_json::from_str::<Report>(&told).expect("own words"),
            short
        );
    }
}
