//! One object, streamed to S3 in parts: bounded memory, hashed on the way, aborted on failure.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::run::Cancel;
use super::{Failure, Reason};

/// The usual part: at most this much times (`PARTS_IN_FLIGHT` + 1) is in memory.
pub(super) const PART_BYTES: usize = 8 << 20;
const PARTS_IN_FLIGHT: usize = 2;
/// S3's limit on the parts of one object, with a tenth to spare for guesses that were too low.
const PARTS_MAX: u64 = 9_000;
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// The part size that lets an object of about `bytes_guess` fit in S3's number of parts.
pub(super) fn part_bytes(bytes_guess: u64) -> usize {
    let needed = bytes_guess.div_ceil(PARTS_MAX);
    usize::try_from(needed)
        .unwrap_or(usize::MAX)
        .max(PART_BYTES)
}

/// An open multipart upload. It must end in `finish` or `abort`; `stream` sees to both.
pub(super) struct Upload<'a> {
    client: &'a Client,
    bucket: &'a str,
    key: &'a str,
    id: String,
}

impl<'a> Upload<'a> {
    /// Opens the upload; that is also the check that store, bucket and credentials are good.
    pub async fn begin(client: &'a Client, bucket: &'a str, key: &'a str) -> Result<Self, Failure> {
        let created = client
            .create_multipart_upload()
            .bucket(bucket)
            .key(key)
            .content_type("application/octet-stream")
            .send()
            .await
            .map_err(|e| {
                Failure::storage(&format!("beginning {key:?} in bucket {bucket:?}"), &e)
            })?;
        let id = created.upload_id.ok_or_else(|| {
            Failure::new(
                Reason::StorageRefused,
                format!("the store opened {key:?} without an upload ID"),
            )
        })?;
        Ok(Upload {
            client,
            bucket,
            key,
            id,
        })
    }

    async fn put_part(&self, number: i32, body: Bytes) -> Result<CompletedPart, Failure> {
        let answer = self
            .client
            .upload_part()
            .bucket(self.bucket)
            .key(self.key)
            .upload_id(&self.id)
            .part_number(number)
            .body(ByteStream::from(body))
            .send()
            .await
            .map_err(|e| {
                Failure::storage(&format!("writing part {number} of {:?}", self.key), &e)
            })?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag)
            .build())
    }

    async fn finish(&self, mut parts: Vec<CompletedPart>) -> Result<(), Failure> {
        parts.sort_by_key(|p| p.part_number);
        self.client
            .complete_multipart_upload()
            .bucket(self.bucket)
            .key(self.key)
            .upload_id(&self.id)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .send()
            .await
            .map_err(|e| Failure::storage(&format!("completing {:?}", self.key), &e))?;
        Ok(())
    }

    /// Removes the parts. A store that cannot be reached keeps them: the failure that led here is the one to tell.
    pub async fn abort(&self) {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(self.bucket)
            .key(self.key)
            .upload_id(&self.id)
            .send();
        match tokio::time::timeout(ABORT_TIMEOUT, request).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let failure = Failure::storage("aborting", &error);
                tracing::warn!(key = self.key, %failure, "the unfinished upload stays in the bucket");
            }
            Err(_) => tracing::warn!(
                key = self.key,
                "the unfinished upload stays in the bucket: no answer in time"
            ),
        }
    }

    /// Streams `chunks` to the end and completes the object; aborts the upload on any failure or when cancelled.
    pub async fn stream<C: Chunks>(
        self,
        chunks: &mut C,
        part_bytes: usize,
        cancel: &Cancel,
    ) -> Result<Stored, Failure> {
        let work = async {
            let (stored, parts) = self.pump(chunks, part_bytes).await?;
            self.finish(parts).await?;
            Ok(stored)
        };
        let done = tokio::select! {
            done = work => done,
            () = cancel.cancelled() => Err(Failure::new(Reason::Interrupted, format!("stopped while writing {:?}", self.key))),
        };
        if done.is_err() {
            self.abort().await;
        }
        done
    }

    /// Reads and writes side by side: the node prepares its next chunk while parts are on their way.
    async fn pump<C: Chunks>(
        &self,
        chunks: &mut C,
        part_bytes: usize,
    ) -> Result<(Stored, Vec<CompletedPart>), Failure> {
        let (sender, receiver) = mpsc::channel(1);
        let read = async move {
            while let Some(chunk) = chunks.next().await? {
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let ((), written) = tokio::try_join!(read, self.write(receiver, part_bytes))?;
        Ok(written)
    }

    async fn write(
        &self,
        mut chunks: mpsc::Receiver<Vec<u8>>,
        part_bytes: usize,
    ) -> Result<(Stored, Vec<CompletedPart>), Failure> {
        let mut hash = Sha256::new();
        let mut bytes = 0u64;
        let mut buffer = BytesMut::new();
        let mut number = 0;
        let mut in_flight = FuturesUnordered::new();
        let mut parts = Vec::new();
        let mut ended = false;
        while !ended {
            tokio::select! {
                Some(part) = in_flight.next() => parts.push(part?),
                chunk = chunks.recv(), if in_flight.len() < PARTS_IN_FLIGHT => match chunk {
                    Some(chunk) => {
                        hash.update(&chunk);
                        bytes += chunk.len() as u64;
                        buffer.extend_from_slice(&chunk);
                    }
                    None => ended = true,
                },
            }
            // The last part may be short, and an empty object still needs one.
            while buffer.len() >= part_bytes || (ended && (!buffer.is_empty() || number == 0)) {
                let body = buffer.split_to(buffer.len().min(part_bytes)).freeze();
                number += 1;
                in_flight.push(self.put_part(number, body));
            }
        }
        while let Some(part) = in_flight.next().await {
            parts.push(part?);
        }
        let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Ok((Stored { bytes, sha256 }, parts))
    }
}

/// Bytes in order, `None` at the end.
pub(super) trait Chunks: Send {
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, Failure>> + Send;
}

/// Asks the store for the object's size and compares.
pub(super) async fn check_size(
    client: &Client,
    bucket: &str,
    key: &str,
    bytes: u64,
) -> Result<(), Failure> {
    let head = client
        .head_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await
        .map_err(|e| Failure::storage(&format!("looking up {key:?}"), &e))?;
    let listed = head.content_length.and_then(|n| u64::try_from(n).ok());
    if listed != Some(bytes) {
        return Err(Failure::new(
            Reason::StorageMismatch,
            format!("{key:?} has {listed:?} bytes in the store, {bytes} were sent"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_so_that_ten_thousand_hold_the_object() {
        assert_eq!(part_bytes(0), PART_BYTES);
        assert_eq!(part_bytes(1 << 30), PART_BYTES);
        let terabyte = 1u64 << 40;
        assert!(terabyte.div_ceil(part_bytes(terabyte) as u64) <= 10_000);
    }
}
