//! Snapshots of a live Cache, loaded by a real redis-server, which these tests need (Debian: redis-server).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cache_operator::api::CacheBackup;
use cache_operator::backup::{Cancel, Manifest};
use cache_operator::local::{LocalS3, S3File, read_backup, take_snapshot, write_backup_spec};
use redis::AsyncCommands;

use crate::harness::{NAME, World};
use crate::load::{Load, fill, key, value};

const KEYS: u64 = 2_000;

/// A redis-server over one RDB file; ends with this value.
struct Redis {
    process: Child,
    port: u16,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed by then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    fn over(folder: &Path, file: &str) -> Redis {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("loopback")
            .port();
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--dir", &folder.display().to_string(), "--dbfilename", file])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs: install it (Debian: redis-server)");
        Redis { process, port }
    }

    async fn connect(&mut self) -> redis::aio::MultiplexedConnection {
        let client =
            redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).expect("a client");
        loop {
            if let Some(status) = self.process.try_wait().expect("a state") {
                panic!("redis-server does not load the file: {status}");
            }
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING")
                    .query_async::<String>(&mut connection)
                    .await
                    .is_ok()
            {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn backup() -> CacheBackup {
    serde_yaml::from_str(&format!(
        "{{apiVersion: cache.clusterdb.io/v1alpha1, kind: CacheBackup, metadata: {{name: nightly}}, \
         spec: {{cacheRef: {{name: {NAME}}}, storage: {{s3: {{bucket: vault, prefix: n/}}}}}}}}"
    ))
    .expect("a CacheBackup")
}

async fn fetch(world: &World, manifest: &Manifest, location: &str) -> std::path::PathBuf {
    let target = S3File::read(world.local.folder())
        .expect("a server")
        .target("vault", "");
    let client = cache_operator::backup::client(&target).await;
    let folder = world.scratch().join("restored");
    std::fs::create_dir_all(&folder).expect("a folder");
    let prefix = location.strip_prefix("s3://vault/").expect("in the bucket");
    for shard in &manifest.shards {
        let object = client
            .get_object()
            .bucket("vault")
            .key(format!("{prefix}{}", shard.object))
            .send()
            .await
            .expect("an object");
        let bytes = object.body.collect().await.expect("a body").into_bytes();
        assert_eq!(bytes.len() as u64, shard.bytes);
        std::fs::write(folder.join(&shard.object), bytes).expect("written");
    }
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_shards_file_loads_into_redis_server_with_all_its_keys() {
    let world = World::start(3, 1).await;
    let s3 = LocalS3::start(&world.local.folder().s3_folder())
        .await
        .expect("an S3 server");
    s3.file().write(world.local.folder()).expect("written");
    write_backup_spec(world.local.folder(), &backup()).expect("a spec");
    let client = world.client().await;
    fill(&client, KEYS).await;
    // Replicas give the snapshots: wait until they hold what was acknowledged.
    world
        .until("replicated", |w| {
            w.cache()
                .status
                .expect("a status")
                .members
                .iter()
                .map(|m| m.keys)
                .sum::<i64>()
                == 2 * KEYS.cast_signed()
        })
        .await;
    let (_stop, cancel) = Cancel::channel();
    let (manifest, location) = take_snapshot(world.local.folder(), "nightly", &cancel, &|_| {})
        .await
        .expect("a snapshot");
    assert_eq!(manifest.keys, KEYS);
    assert!(
        manifest
            .shards
            .iter()
            .all(|s| s.member != world.primary(&s.name)),
        "replicas are preferred: {manifest:?}"
    );
    let status = read_backup(world.local.folder(), "nightly")
        .expect("a CacheBackup")
        .status
        .expect("a status");
    assert_eq!(status.snapshots[0].keys, KEYS.cast_signed());

    let folder = fetch(&world, &manifest, &location.url()).await;
    let mut found = 0;
    for shard in &manifest.shards {
        let mut redis = Redis::over(&folder, &shard.object);
        let mut connection = redis.connect().await;
        let size: u64 = redis::cmd("DBSIZE")
            .query_async(&mut connection)
            .await
            .expect("a size");
        assert_eq!(size, shard.keys, "shard {}", shard.name);
        for number in 0..KEYS {
            let there: Option<String> = connection.get(key(number)).await.expect("a read");
            if let Some(there) = there {
                assert_eq!(there, value(number, 0));
                found += 1;
            }
        }
    }
    assert_eq!(found, KEYS, "each key is in one file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_while_slots_move_and_keys_are_written_holds_every_key_once() {
    let world = World::start(2, 1).await;
    let s3 = LocalS3::start(&world.local.folder().s3_folder())
        .await
        .expect("an S3 server");
    s3.file().write(world.local.folder()).expect("written");
    write_backup_spec(world.local.folder(), &backup()).expect("a spec");
    let client = world.client().await;
    fill(&client, KEYS).await;
    world
        .until("replicated", |w| {
            w.cache()
                .status
                .expect("a status")
                .members
                .iter()
                .map(|m| m.keys)
                .sum::<i64>()
                == 2 * KEYS.cast_signed()
        })
        .await;
    let load = Load::start(&client, KEYS);
    world.scale(3);
    let (_stop, cancel) = Cancel::channel();
    let (manifest, _) = take_snapshot(world.local.folder(), "nightly", &cancel, &|_| {})
        .await
        .expect("a snapshot");
    world.settled().await;
    load.stop().await;
    assert_eq!(manifest.keys, KEYS, "{manifest:?}");
}
