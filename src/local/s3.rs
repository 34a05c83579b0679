//! An S3 server on loopback over a folder, so that backups can be tried and tested without an account.

use std::net::SocketAddr;
use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::backups::S3File;
use crate::backup::StorageTarget;

/// A running server; it ends with this value.
pub struct LocalS3 {
    address: SocketAddr,
    access_key_id: String,
    secret_access_key: String,
    task: JoinHandle<()>,
}

impl LocalS3 {
    /// Serves `folder` on a free port of 127.0.0.1 with keys made for this run. Buckets are its sub-folders.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let access_key_id = "local".to_string();
        let secret_access_key = uuid::Uuid::new_v4().simple().to_string();
        let files = FileSystem::new(folder).map_err(|e| {
            anyhow::anyhow!("the S3 folder {} cannot be used: {e:?}", folder.display())
        })?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(
            access_key_id.clone(),
            secret_access_key.clone(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, builder.build()));
        Ok(LocalS3 {
            address,
            access_key_id,
            secret_access_key,
            task,
        })
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How a backup reaches it, as other processes of this user read it.
    pub fn file(&self) -> S3File {
        S3File {
            endpoint: self.endpoint(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
        }
    }

    /// How a backup reaches a bucket of this server.
    pub fn target(&self, bucket: &str, prefix: &str) -> StorageTarget {
        self.file().target(bucket, prefix)
    }
}

impl Drop for LocalS3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!("S3 server: a connection was not accepted: {error}");
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(socket), service).await {
                tracing::debug!("S3 server: a connection ended: {error}");
            }
        });
    }
}
