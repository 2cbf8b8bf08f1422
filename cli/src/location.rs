//! IMAGE arguments: a path or an `nfs://` URL.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use comio_backends::local::LocalStorage;
use comio_backends::nfs::{NfsStorage, NfsUrl};
use comio_backends::pool::WorkerPool;
use comio_core::compute::Compute;
use comio_core::storage::Storage;

/// A storage and the name of an image in it.
pub(crate) struct Location {
    /// Where.
    pub(crate) storage: Arc<dyn Storage>,
    /// The image's name there.
    pub(crate) name: String,
}

impl Location {
    /// What `text`, a path or URL of an image, means.
    pub(crate) async fn of_image(text: &str, pool: &Arc<WorkerPool>) -> anyhow::Result<Self> {
        if text.starts_with("nfs://") {
            let (url, name) = NfsUrl::parse(text)?.split_name()?;
            return Ok(Self { storage: Arc::new(NfsStorage::connect(&url).await?), name });
        }
        let path = Path::new(text);
        let Some(name) = path.file_name() else { bail!("{text:?} names no file") };
        let Some(name) = name.to_str() else { bail!("the name of an image must be UTF-8: {text:?}") };
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Ok(Self { storage: local(directory, pool)?, name: name.to_owned() })
    }
}

/// The storage that `text`, a directory's path or URL, means.
pub(crate) async fn directory(text: &str, pool: &Arc<WorkerPool>) -> anyhow::Result<Arc<dyn Storage>> {
    if text.starts_with("nfs://") {
        return Ok(Arc::new(NfsStorage::connect(&NfsUrl::parse(text)?).await?));
    }
    local(Path::new(text), pool)
}

/// `text` as it means the same from any directory.
pub(crate) fn lasting(text: &str) -> anyhow::Result<String> {
    if text.starts_with("nfs://") {
        return Ok(text.to_owned());
    }
    let path = std::path::absolute(text).with_context(|| format!("cannot tell where {text} is"))?;
    path.into_os_string().into_string().ok().with_context(|| format!("the path of {text} must be UTF-8"))
}

fn local(directory: &Path, pool: &Arc<WorkerPool>) -> anyhow::Result<Arc<dyn Storage>> {
    let compute: Arc<dyn Compute> = Arc::clone(pool) as Arc<dyn Compute>;
    let storage = LocalStorage::open(directory, compute)
        .with_context(|| format!("cannot use the directory {}", directory.display()))?;
    Ok(Arc::new(storage))
}
