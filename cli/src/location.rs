//! IMAGE arguments: a path or an `nfs://` URL.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use comio_backends::local::LocalStorage;
use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_backends::pool::WorkerPool;
use comio_core::compute::Compute;
use comio_core::storage::Storage;
use tokio::sync::Mutex;

/// A storage and the name of an image in it.
pub(crate) struct Location {
    /// Where.
    pub(crate) storage: Arc<dyn Storage>,
    /// The image's name there.
    pub(crate) name: String,
}

/// The storages in use, by what names them: what is done in one NFS directory at the same time shares
/// its connections and its bandwidth limit.
pub(crate) struct Storages {
    pool: Arc<WorkerPool>,
    connected: Mutex<Vec<(NfsUrl, Arc<dyn Storage>)>>,
}

impl Storages {
    pub(crate) fn new(pool: Arc<WorkerPool>) -> Self {
        Self { pool, connected: Mutex::default() }
    }

    /// What `text`, a path or URL of an image, means.
    pub(crate) async fn image(&self, text: &str) -> anyhow::Result<Location> {
        if text.starts_with("nfs://") {
            let (url, name) = NfsUrl::parse(text)?.split_name()?;
            return Ok(Location { storage: self.connect(url).await?, name });
        }
        let path = Path::new(text);
        let Some(name) = path.file_name() else { bail!("{text:?} names no file") };
        let Some(name) = name.to_str() else { bail!("the name of an image must be UTF-8: {text:?}") };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Ok(Location { storage: self.local(directory)?, name: name.to_owned() })
    }

    /// The storage that `text`, a directory's path or URL, means.
    pub(crate) async fn directory(&self, text: &str) -> anyhow::Result<Arc<dyn Storage>> {
        if text.starts_with("nfs://") {
            return self.connect(NfsUrl::parse(text)?).await;
        }
        self.local(Path::new(text))
    }

    async fn connect(&self, url: NfsUrl) -> anyhow::Result<Arc<dyn Storage>> {
        // Who comes second waits for the first one's connection.
        let mut connected = self.connected.lock().await;
        if let Some((_, storage)) = connected.iter().find(|(known, _)| *known == url) {
            return Ok(Arc::clone(storage));
        }
        let storage: Arc<dyn Storage> = Arc::new(NfsStorage::connect(&url).await?);
        connected.push((url, Arc::clone(&storage)));
        Ok(storage)
    }

    fn local(&self, directory: &Path) -> anyhow::Result<Arc<dyn Storage>> {
        let compute: Arc<dyn Compute> = Arc::clone(&self.pool) as Arc<dyn Compute>;
        let storage = LocalStorage::open(directory, compute)
            .with_context(|| format!("cannot use the directory {}", directory.display()))?;
        Ok(Arc::new(storage))
    }
}

/// `text` as it means the same from any directory.
pub(crate) fn lasting(text: &str) -> anyhow::Result<String> {
    if text.starts_with("nfs://") {
        return Ok(text.to_owned());
    }
    let path = std::path::absolute(text).with_context(|| format!("cannot tell where {text} is"))?;
    path.into_os_string().into_string().ok().with_context(|| format!("the path of {text} must be UTF-8"))
}

#[cfg(test)]
mod test {
    use comio_backends::embedded::EmbeddedServer;

    use super::*;

    #[test]
    fn what_is_done_in_one_directory_shares_its_connections() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let server = EmbeddedServer::start(place.path(), 1).expect("starts");
        let storages = Storages::new(Arc::new(WorkerPool::new(1).expect("starts")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
        runtime.block_on(async {
            let image = |name| server.url().replace("/?", &format!("/{name}?"));
            let (one, two) = (image("one"), image("two"));
            let (one, two) = futures::join!(storages.image(&one), storages.image(&two));
            let (one, two) = (one.expect("connects"), two.expect("connects"));
            assert!(Arc::ptr_eq(&one.storage, &two.storage));
            assert_eq!((&*one.name, &*two.name), ("one", "two"));
            let slower =
                storages.directory(&format!("{}&bandwidth=1M", server.url())).await.expect("connects");
            assert!(!Arc::ptr_eq(&one.storage, &slower));
        });
    }
}
