//! An NFS server inside the process, over a local directory, on a loopback port.
//!
//! It lets a scenario run with the real NFS client on a machine that has no NFS server. It is
//! made on `nfs3_server`, has one flat directory, and believes every user: not for others to
//! connect to, hence loopback only.

mod files;

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nfs3_server::tcp::{NFSTcp, NFSTcpListener};
use nfs3_server::vfs::NfsFileSystem;
use tokio::sync::oneshot;

pub use files::DirectoryFiles;

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct EmbeddedServer {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedServer {
    /// Serves the files of `directory` on `threads` threads of its own.
    ///
    /// # Errors
    /// When the directory cannot be read or no port is free.
    pub fn start(directory: &Path, threads: usize) -> io::Result<Self> {
        Self::serve(DirectoryFiles::open(directory)?, 0, threads)
    }

    /// Serves `files` on loopback port `port`, or any if that is 0. File handles stay valid from
    /// one server to the next on the same files.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve<F: NfsFileSystem + 'static>(files: F, port: u16, threads: usize) -> io::Result<Self> {
        let (started, start) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        // A thread of its own, so that it may be started from within a runtime.
        let serve = move || match listen(files, port, threads) {
            Ok((runtime, listener)) => {
                // Nobody listens if the caller is gone; then `stopped` is too.
                let _ = started.send(Ok(listener.get_listen_port()));
                serve_until(&runtime, &listener, stopped);
                runtime.shutdown_background();
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("nfs-server".to_owned()).spawn(serve)?;
        let port = start.recv().map_err(|_| io::Error::other("the server's thread is gone"))??;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    /// The port of NFS and MOUNT on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its directory.
    pub fn url(&self) -> String {
        format!("nfs://127.0.0.1:{0}/?mountport={0}", self.port)
    }
}

type Listening<F> = (tokio::runtime::Runtime, NFSTcpListener<F>);

/// A runtime and a listening socket. Blocking file calls happen on the runtime's threads: they
/// are the server's own, and nothing else runs on them.
fn listen<F: NfsFileSystem + 'static>(files: F, port: u16, threads: usize) -> io::Result<Listening<F>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_name("nfs-server")
        .enable_all()
        .build()?;
    let address = format!("127.0.0.1:{port}");
    let listener = runtime.block_on(NFSTcpListener::bind_with_generation(&address, files, GENERATION))?;
    Ok((runtime, listener))
}

fn serve_until<F: NfsFileSystem + 'static>(
    runtime: &tokio::runtime::Runtime,
    listener: &NFSTcpListener<F>,
    stopped: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        tokio::select! {
            biased;
            _ = stopped => {}
            result = listener.handle_forever() => {
                if let Err(error) = result {
                    tracing::error!(%error, "the embedded NFS server stopped");
                }
            }
        }
    });
}

/// Part of every file handle, and the write verifier.
const GENERATION: u64 = 1;

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Without a listener it has stopped already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
