//! The whole run against a real S3 server in this process and shards that are made up.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::run::{Backup, Cancel, Progress, run};
use super::upload::PART_BYTES;
use super::*;
use crate::api::topology::{SlotRange, WireShard, WireTopology};
use crate::local::LocalS3;

/// Shards whose RDB is `size` made-up bytes; scripted to fail or to move slots.
struct Shards {
    topologies: Mutex<Vec<WireTopology>>,
    sizes: BTreeMap<String, usize>,
    /// Opens that fail, by (shard, attempt).
    unreachable: Vec<(String, usize)>,
    /// Ends with a failure after this many bytes, at attempt 0.
    breaks_after: Option<usize>,
    hang: bool,
}

fn topology(epoch: u64, shards: &[(&str, &[(u16, u16)])]) -> WireTopology {
    WireTopology {
        cluster_id: "c-1".into(),
        epoch,
        shards: shards
            .iter()
            .map(|(name, slots)| WireShard {
                name: name.to_string(),
                slots: slots.iter().map(|r| SlotRange(r.0, r.1)).collect(),
                ..WireShard::default()
            })
            .collect(),
        ..WireTopology::default()
    }
}

const HALVES: [(&str, &[(u16, u16)]); 2] = [("0", &[(0, 8191)]), ("1", &[(8192, 16383)])];

impl Shards {
    fn of(sizes: &[(&str, usize)]) -> Self {
        Shards {
            topologies: Mutex::new(vec![topology(7, &HALVES)]),
            sizes: sizes.iter().map(|(n, s)| (n.to_string(), *s)).collect(),
            unreachable: vec![],
            breaks_after: None,
            hang: false,
        }
    }
}

fn content(shard: &str, size: usize) -> Vec<u8> {
    let salt = shard.as_bytes()[0] as usize;
    (0..size)
        .map(|i| ((i * 31 + i / 251 + salt) % 256) as u8)
        .collect()
}

struct Stream {
    start: SnapshotStart,
    rest: Vec<u8>,
    given: usize,
    breaks_after: Option<usize>,
    hang: bool,
}

#[async_trait]
impl SnapshotSource for Shards {
    async fn topology(&self) -> Result<WireTopology, Failure> {
        let mut all = self.topologies.lock().expect("not poisoned");
        Ok(if all.len() > 1 {
            all.remove(0)
        } else {
            all[0].clone()
        })
    }

    async fn open(
        &self,
        shard: &WireShard,
        attempt: usize,
    ) -> Result<Box<dyn SnapshotStream>, Failure> {
        if self.unreachable.contains(&(shard.name.clone(), attempt)) {
            return Err(Failure::new(Reason::NodeUnreachable, "made up"));
        }
        Ok(Box::new(Stream {
            start: SnapshotStart {
                member: format!("main-{}-1", shard.name),
                log_epoch: 5,
                offset: 100,
                bytes_guess: 0,
            },
            rest: content(&shard.name, self.sizes[&shard.name]),
            given: 0,
            breaks_after: self.breaks_after.filter(|_| attempt == 0),
            hang: self.hang,
        }))
    }
}

#[async_trait]
impl SnapshotStream for Stream {
    fn start(&self) -> &SnapshotStart {
        &self.start
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        if self.breaks_after.is_some_and(|n| self.given >= n) {
            return Err(Failure::new(Reason::SnapshotFailed, "made up"));
        }
        if self.hang {
            return std::future::pending().await;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        // Uneven chunks, so that part borders fall inside them.
        let size = (777_777 + self.given % 1000).min(self.rest.len());
        self.given += size;
        Ok(Some(self.rest.drain(..size).collect()))
    }

    async fn finish(&mut self) -> Result<SnapshotEnd, Failure> {
        Ok(SnapshotEnd {
            keys: self.given as u64 / 100,
        })
    }
}

struct Bench {
    folder: tempfile::TempDir,
    s3: LocalS3,
    client: aws_sdk_s3::Client,
    seen: Mutex<Vec<Progress>>,
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let s3 = LocalS3::start(folder.path()).await.expect("an S3 server");
        let client = client(&s3.target("vault", "")).await;
        client
            .create_bucket()
            .bucket("vault")
            .send()
            .await
            .expect("a bucket");
        Bench {
            folder,
            s3,
            client,
            seen: Mutex::default(),
        }
    }

    async fn run_into(
        &self,
        bucket: &str,
        client: &aws_sdk_s3::Client,
        source: &Shards,
        cancel: &Cancel,
    ) -> Result<(Manifest, Location), Failure> {
        let backup = Backup {
            source,
            client,
            bucket,
            prefix: "nightly/",
            cache: CacheIdentity {
                namespace: "team".into(),
                name: "main".into(),
                uid: "u-1".into(),
            },
            snapshot: "nightly-3".into(),
            progress: &|p| self.seen.lock().expect("not poisoned").push(p),
        };
        run(&backup, cancel).await
    }

    async fn run(&self, source: &Shards) -> Result<(Manifest, Location), Failure> {
        self.run_into("vault", &self.client, source, &Cancel::channel().1)
            .await
    }

    async fn keys(&self) -> Vec<String> {
        let listed = self
            .client
            .list_objects_v2()
            .bucket("vault")
            .send()
            .await
            .expect("a listing");
        listed
            .contents()
            .iter()
            .filter_map(|o| o.key().map(str::to_string))
            .collect()
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let object = self
            .client
            .get_object()
            .bucket("vault")
            .key(key)
            .send()
            .await
            .expect(key);
        object
            .body
            .collect()
            .await
            .expect("a body")
            .into_bytes()
            .to_vec()
    }

    /// Parts of unfinished uploads, which a real store would charge for.
    fn left_parts(&self) -> Vec<String> {
        std::fs::read_dir(self.folder.path())
            .expect("the folder")
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| name.contains("upload"))
            .collect()
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[tokio::test]
async fn each_shard_and_then_a_manifest_that_agrees_with_them() {
    let bench = Bench::start().await;
    // Around the part size and at nothing: where parts begin and end.
    for size in [
        0,
        1,
        PART_BYTES - 1,
        PART_BYTES,
        PART_BYTES + 1,
        2 * PART_BYTES + 12_345,
    ] {
        let source = Shards::of(&[("0", size), ("1", 4321)]);
        let (manifest, location) = bench.run(&source).await.expect("a snapshot");
        assert_eq!(location.url(), "s3://vault/nightly/team/u-1/nightly-3/");
        assert_eq!(
            bench.keys().await,
            ["manifest.json", "shard-0.rdb", "shard-1.rdb"]
                .map(|name| format!("nightly/team/u-1/nightly-3/{name}"))
        );
        let written: Manifest =
            serde_json::from_slice(&bench.get(&location.manifest_key()).await).expect("JSON");
        assert_eq!(written, manifest);
        assert_eq!((written.epoch, written.cluster_id.as_str()), (7, "c-1"));
        assert_eq!(written.bytes, size as u64 + 4321);
        for shard in &written.shards {
            let object = bench.get(&location.shard_key(&shard.name)).await;
            assert!(
                object == content(&shard.name, source.sizes[&shard.name]),
                "shard {} at {size}",
                shard.name
            );
            assert_eq!(
                (shard.bytes, &shard.sha256),
                (object.len() as u64, &sha256(&object))
            );
        }
        assert_eq!(written.shards[1].slots, [SlotRange(8192, 16383)]);
    }
}

#[tokio::test]
async fn a_shard_whose_slots_moved_meanwhile_is_taken_again() {
    let bench = Bench::start().await;
    let source = Shards::of(&[("0", 10), ("1", 20), ("2", 30)]);
    *source.topologies.lock().expect("not poisoned") = vec![
        topology(7, &[("0", &[(0, 8191)]), ("1", &[(8192, 16383)])]),
        topology(
            8,
            &[
                ("0", &[(0, 4000)]),
                ("1", &[(8192, 16383)]),
                ("2", &[(4001, 8191)]),
            ],
        ),
    ];
    let (manifest, _) = bench.run(&source).await.expect("a snapshot");
    assert_eq!(manifest.epoch, 8);
    let slots: Vec<_> = manifest
        .shards
        .iter()
        .flat_map(|s| s.slots.clone())
        .collect();
    assert_eq!(
        slots,
        [
            SlotRange(0, 4000),
            SlotRange(8192, 16383),
            SlotRange(4001, 8191)
        ]
    );
    let seen = bench.seen.lock().expect("not poisoned");
    assert!(seen.contains(&Progress::ShardAgain { shard: "0".into() }));
    assert!(!seen.contains(&Progress::ShardAgain { shard: "1".into() }));
}

#[tokio::test]
async fn slots_that_never_rest_or_are_nobodys_fail_and_leave_nothing() {
    let bench = Bench::start().await;
    let source = Shards::of(&[("0", 10), ("1", 20)]);
    *source.topologies.lock().expect("not poisoned") = (0..20u16)
        .map(|i| WireTopology {
            shards: vec![
                WireShard {
                    name: "0".into(),
                    slots: vec![SlotRange(0, 100 + i)],
                    ..WireShard::default()
                },
                WireShard {
                    name: "1".into(),
                    slots: vec![SlotRange(101 + i, 16383)],
                    ..WireShard::default()
                },
            ],
            ..topology(u64::from(i), &[])
        })
        .collect();
    let failure = bench.run(&source).await.expect_err("restless");
    assert_eq!(failure.reason, Reason::TopologyChanged);
    *source.topologies.lock().expect("not poisoned") =
        vec![topology(1, &[("0", &[(0, 99)]), ("1", &[(101, 16383)])])];
    let failure = bench.run(&source).await.expect_err("slot 100 is missing");
    assert!(failure.message.contains("slot 100"), "{failure}");
    assert_eq!(bench.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_member_that_fails_is_left_for_another() {
    let bench = Bench::start().await;
    let mut source = Shards::of(&[("0", PART_BYTES + 5), ("1", 20)]);
    source.unreachable = vec![("1".into(), 0), ("1".into(), 1)];
    source.breaks_after = Some(PART_BYTES + 1);
    let (manifest, location) = bench.run(&source).await.expect("a snapshot at last");
    assert_eq!(
        bench.get(&location.shard_key("0")).await.len(),
        PART_BYTES + 5
    );
    assert_eq!(manifest.shards.len(), 2);
    assert_eq!(bench.left_parts(), Vec::<String>::new());

    source.unreachable = (0..9).map(|i| ("1".to_string(), i)).collect();
    let failure = bench.run(&source).await.expect_err("no member left");
    assert_eq!(failure.reason, Reason::NodeUnreachable);
    assert!(
        !bench.keys().await.contains(&location.shard_key("0")),
        "shard 0 stays without a manifest"
    );
}

#[tokio::test]
async fn a_cancelled_run_aborts_its_upload() {
    let bench = Bench::start().await;
    let mut source = Shards::of(&[("0", 10), ("1", 20)]);
    source.hang = true;
    let (stop, cancel) = Cancel::channel();
    let begun = async {
        while bench.seen.lock().expect("not poisoned").is_empty() {
            tokio::task::yield_now().await;
        }
        assert_ne!(
            bench.left_parts(),
            Vec::<String>::new(),
            "the upload is open"
        );
        stop.send(true).expect("the run listens");
    };
    let (result, ()) = tokio::join!(
        bench.run_into("vault", &bench.client, &source, &cancel),
        begun
    );
    assert_eq!(result.expect_err("cancelled").reason, Reason::Interrupted);
    assert_eq!(bench.left_parts(), Vec::<String>::new());
    assert_eq!(bench.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_store_that_refuses_is_told_by_its_reason() {
    let bench = Bench::start().await;
    let source = Shards::of(&[("0", 10), ("1", 20)]);
    let (_stop, cancel) = Cancel::channel();

    let mut target = bench.s3.target("vault", "");
    for (id, secret) in [("local", "wrong"), ("nobody", "wrong")] {
        target.credentials = Credentials::Static(StaticKeys {
            access_key_id: id.into(),
            secret_access_key: secret.into(),
            session_token: None,
        });
        let wrong = client(&target).await;
        let failure = bench
            .run_into("vault", &wrong, &source, &cancel)
            .await
            .expect_err("wrong keys");
        assert_eq!(failure.reason, Reason::WrongCredentials, "{failure}");
        assert!(
            !failure.to_string().contains("wrong\""),
            "no secret in {failure}"
        );
    }

    let mut target = bench.s3.target("vault", "");
    target.endpoint = Some(format!("http://127.0.0.1:{}", free_port()));
    let nobody = client(&target).await;
    let failure = bench
        .run_into("vault", &nobody, &source, &cancel)
        .await
        .expect_err("nobody there");
    assert_eq!(failure.reason, Reason::EndpointUnreachable, "{failure}");
}

/// A store that answers each request as AWS does when it refuses.
async fn refusing(status: u16, code: &'static str) -> aws_sdk_s3::Client {
    let answer = move || async move {
        let status = axum::http::StatusCode::from_u16(status).expect("a status");
        (
            status,
            format!("<Error><Code>{code}</Code><Message>made up</Message></Error>"),
        )
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    client(&StorageTarget {
        bucket: String::new(),
        prefix: String::new(),
        region: "us-west-2".into(),
        endpoint: Some(format!("http://{address}")),
        path_style: true,
        credentials: Credentials::Static(StaticKeys {
            access_key_id: "id".into(),
            secret_access_key: "secret".into(),
            session_token: None,
        }),
    })
    .await
}

#[tokio::test]
async fn refusals_as_aws_words_them_are_told_by_their_reason() {
    let bench = Bench::start().await;
    let source = Shards::of(&[("0", 10), ("1", 20)]);
    let (_stop, cancel) = Cancel::channel();
    for (status, code, reason) in [
        (404, "NoSuchBucket", Reason::BucketNotFound),
        (403, "AccessDenied", Reason::AccessDenied),
        (403, "InvalidAccessKeyId", Reason::WrongCredentials),
        (301, "PermanentRedirect", Reason::WrongRegion),
        (400, "EntityTooLarge", Reason::StorageRefused),
    ] {
        let store = refusing(status, code).await;
        let failure = bench
            .run_into("b", &store, &source, &cancel)
            .await
            .expect_err(code);
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(
            failure.message.contains(code) && failure.message.contains("made up"),
            "{failure}"
        );
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("loopback")
        .port()
}
