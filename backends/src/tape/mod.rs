//! Tapes in files, pipes and standard input and output.
//!
//! Regular files are read by several jobs at once on the worker pool, at known offsets. Pipes
//! (and terminals, devices, standard input and output) are read and written in order on a
//! thread of their own, so that a stuck one holds up no worker.

mod file;
mod raw;
mod sink;
mod stream;
#[cfg(test)]
mod test;
mod xl;

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use comio_core::PAGE_SIZE;
use comio_core::buffer::{BudgetTooSmall, Buffer, BufferPool};
use comio_core::tape::{GuestReader, GuestWriter, TapeError, TapeFormat};

use crate::pool::WorkerPool;
use crate::xen;

use raw::RawWriter;
use xl::XlWriter;

/// How to read a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceFormat {
    /// By its first bytes: a save file of xl, or else a flat dump.
    #[default]
    Auto,
    /// A save file of xl.
    Xl,
    /// A flat dump of pages.
    Raw,
}

/// The format of a source that begins with `first_bytes` ([`xen::DETECT_LEN`] of them, or all
/// if there are fewer). Flat dumps have no mark, so everything unknown is one.
pub fn detect(first_bytes: &[u8]) -> TapeFormat {
    if xen::is_xl(first_bytes) { TapeFormat::XEN_XL } else { TapeFormat::RAW }
}

/// Opens the tape at `path`, or standard input for `-`.
///
/// # Errors
/// [`TapeError::Io`] when it cannot be opened, or its first bytes cannot be read.
pub async fn open_source(
    path: &Path,
    format: SourceFormat,
    pool: &Arc<WorkerPool>,
) -> Result<Box<dyn GuestReader>, TapeError> {
    let name = source_name(path);
    let owned = path.to_owned();
    let stream = is_stdio(path) || !is_regular(path, pool).await?;
    if stream {
        let thread = pipe_thread(&name)?;
        let opening = thread.submit_io(move || open_stream(&owned, format));
        let (input, format) = opening.await?.map_err(io_error("open", &name))?;
        return Ok(stream::open(input, format, name, thread));
    }
    let opening = pool.submit_io(move || open_file(&owned, format));
    let (file, len, format) = opening.await?.map_err(io_error("open", &name))?;
    Ok(match format {
        TapeFormat::XEN_XL => Box::new(xl::file_reader(file, len, name, pool)),
        _ => Box::new(raw::file_reader(file, len, name, pool)),
    })
}

/// The first `page_count` pages of `file` as a flat dump.
pub(crate) fn flat_file(file: &Arc<File>, page_count: u64, pool: &Arc<WorkerPool>) -> Box<dyn GuestReader> {
    let name = "the guest's memory".to_owned();
    Box::new(raw::file_reader(Arc::clone(file), page_count * PAGE_SIZE as u64, name, pool))
}

/// Begins the tape at `path`, or on standard output for `-`.
///
/// A regular file appears under its name only when it is complete, with access for its owner
/// alone (it holds a guest's memory); one that exists is replaced only if `replace` says so.
/// The file is not forced to disk: it can be made again from the image.
///
/// # Errors
/// [`TapeError::Io`] when it cannot be created; [`TapeError::Inconsistent`] for a `format` that
/// this program does not know.
pub async fn open_sink(
    path: &Path,
    format: TapeFormat,
    replace: bool,
    pool: &Arc<WorkerPool>,
) -> Result<Box<dyn GuestWriter>, TapeError> {
    if ![TapeFormat::RAW, TapeFormat::XEN_XL].contains(&format) {
        let problem = format!("tape format {} is unknown; a newer ComIO made it", format.0);
        return Err(TapeError::Inconsistent(problem));
    }
    let sink = sink::Sink::open(path, replace, pool).await?;
    Ok(match format {
        TapeFormat::XEN_XL => Box::new(XlWriter::new(sink)),
        _ => Box::new(RawWriter::new(sink)),
    })
}

/// The save file that somebody writes into `pipe`; `name` is for messages.
///
/// # Errors
/// [`TapeError::Io`] when no thread can be started for it.
pub fn read_xl_pipe(pipe: File, name: String) -> Result<Box<dyn GuestReader>, TapeError> {
    let thread = pipe_thread(&name)?;
    Ok(stream::open(Cursor::new(Vec::new()).chain(pipe), TapeFormat::XEN_XL, name, thread))
}

/// Begins a save file that somebody reads from `pipe`; `name` is for messages.
///
/// # Errors
/// [`TapeError::Io`] when no thread can be started for it.
pub fn write_xl_pipe(pipe: File, name: String) -> Result<Box<dyn GuestWriter>, TapeError> {
    Ok(Box::new(XlWriter::new(sink::Sink::pipe(name, pipe)?)))
}

type StreamInput = io::Chain<Cursor<Vec<u8>>, File>;

fn is_stdio(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn source_name(path: &Path) -> String {
    if is_stdio(path) { "standard input".to_owned() } else { path.display().to_string() }
}

async fn is_regular(path: &Path, pool: &WorkerPool) -> Result<bool, TapeError> {
    let (owned, name) = (path.to_owned(), source_name(path));
    let metadata = pool.submit_io(move || fs::metadata(owned)).await?;
    Ok(metadata.map_err(io_error("open", &name))?.is_file())
}

fn pipe_thread(name: &str) -> Result<Arc<WorkerPool>, TapeError> {
    Ok(Arc::new(WorkerPool::for_pipe().map_err(io_error("start a thread for", name))?))
}

fn io_error(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> TapeError {
    let target = name.to_owned();
    move |source| TapeError::Io { action, target, source }
}

fn open_stream(path: &Path, format: SourceFormat) -> io::Result<(StreamInput, TapeFormat)> {
    let file = if is_stdio(path) {
        File::from(io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        File::open(path)?
    };
    let mut first_bytes = Vec::new();
    if format == SourceFormat::Auto {
        (&file).take(xen::DETECT_LEN as u64).read_to_end(&mut first_bytes)?;
    }
    let format = settle(format, &first_bytes);
    Ok((Cursor::new(first_bytes).chain(file), format))
}

fn open_file(path: &Path, format: SourceFormat) -> io::Result<(Arc<File>, u64, TapeFormat)> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut first_bytes = [0; xen::DETECT_LEN];
    let enough = len >= first_bytes.len() as u64;
    if enough {
        file.read_exact_at(&mut first_bytes, 0)?;
    }
    let format = settle(format, if enough { &first_bytes } else { &[] });
    Ok((Arc::new(file), len, format))
}

fn settle(format: SourceFormat, first_bytes: &[u8]) -> TapeFormat {
    match format {
        SourceFormat::Auto => detect(first_bytes),
        SourceFormat::Xl => TapeFormat::XEN_XL,
        SourceFormat::Raw => TapeFormat::RAW,
    }
}

/// A buffer for `pages` pages: a slot, unless the pool's slots are smaller.
async fn take_buffer(pool: &BufferPool, pages: usize) -> Result<Buffer, BudgetTooSmall> {
    let slot = pool.take_slot().await?;
    if slot.capacity() >= pages * PAGE_SIZE {
        return Ok(slot);
    }
    drop(slot);
    pool.take(pages * PAGE_SIZE).await
}
