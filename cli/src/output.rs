//! Data on stdout, words on stderr; files appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Tells the user something. A closed stderr is no reason to fail.
pub(crate) fn say(words: &str) {
    let _ = writeln!(io::stderr().lock(), "{words}");
}

/// Writes `text` as the command's result.
pub(crate) fn data(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Writes a JSON object as the command's result.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    data(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A file, or standard output, that is complete or absent. Guest memory is for its owner only.
pub(crate) struct Output {
    writer: BufWriter<Box<dyn Write + Send>>,
    rename: Option<(PathBuf, PathBuf)>,
    name: String,
}

impl Output {
    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Self { writer: BufWriter::new(Box::new(io::stdout())), rename: None, name: "standard output".into() }
    }

    /// The file at `path`; what exists and is not a regular file is written to directly.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        let (file, rename) = if special {
            (options.open(path), None)
        } else {
            let temporary = temporary_path(path);
            options.create(true).truncate(true);
            (options.open(&temporary), Some((temporary, path.to_owned())))
        };
        let file: File = file.with_context(|| format!("cannot create {name}"))?;
        Ok(Self { writer: BufWriter::new(Box::new(file)), rename, name })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// Completes it.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.writer.flush().with_context(|| format!("cannot write {}", self.name))?;
        if let Some((temporary, path)) = &self.rename {
            fs::rename(temporary, path).with_context(|| format!("cannot create {}", self.name))?;
            self.rename = None;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.rename {
            // Not complete: nothing of it stays. If even that fails, there is nobody to tell.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn temporary_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.comio-part", std::process::id()))
}
