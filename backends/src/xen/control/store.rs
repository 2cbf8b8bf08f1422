//! Xen's store, as far as it is needed: values read by path, over the daemon's socket or the
//! kernel's device.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
const DEVICE: &str = "/dev/xen/xenbus";
/// The daemon answers at once, or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

// From xs_wire.h: message types, and the most that a message carries.
const READ: u32 = 2;
const ERROR: u32 = 16;
const PAYLOAD_MAX: usize = 4096;
const HEADER_LEN: usize = 16;

/// The store, open.
pub(super) struct Store<S = Box<dyn Stream>> {
    stream: S,
}

/// What carries messages both ways.
pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Store {
    /// Opens it.
    pub(super) fn open() -> io::Result<Self> {
        if let Some(socket) = SOCKETS.iter().find(|path| Path::new(path).exists()) {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            return Ok(Self { stream: Box::new(stream) });
        }
        let device: File = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        Ok(Self { stream: Box::new(device) })
    }
}

impl<S: Stream> Store<S> {
    /// The value at `path`; `None` if there is none.
    pub(super) fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        let mut message = Vec::with_capacity(HEADER_LEN + path.len() + 1);
        let len = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        for field in [READ, 0, 0, len] {
            message.extend_from_slice(&field.to_le_bytes());
        }
        message.extend_from_slice(path.as_bytes());
        message.push(0);
        self.stream.write_all(&message)?;
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header)?;
        let (fields, _) = header.as_chunks::<4>();
        let [kind, _, _, len] = [0, 1, 2, 3].map(|i: usize| u32::from_le_bytes(fields[i]));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > PAYLOAD_MAX || (kind != READ && kind != ERROR) {
            return Err(io::Error::other("Xen's store does not keep to its protocol"));
        }
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload)?;
        let text = String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned();
        match (kind, text.as_str()) {
            (READ, _) => Ok(Some(text)),
            (_, "ENOENT") => Ok(None),
            (_, error) => Err(io::Error::other(format!("Xen's store refuses to read {path}: {error}"))),
        }
    }
}

#[cfg(test)]
mod test {
    use std::io::Cursor;

    use super::*;

    /// Answers that come whatever is asked.
    struct Script(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Script {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.0.read(bytes)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answered(kind: u32, len: u32, payload: &[u8]) -> io::Result<Option<String>> {
        let mut bytes: Vec<u8> = [kind, 0, 0, len].into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend_from_slice(payload);
        let mut store = Store { stream: Script(Cursor::new(bytes), Vec::new()) };
        let answer = store.read("/a/b");
        assert_eq!(store.stream.1.len(), HEADER_LEN + 5);
        answer
    }

    #[test]
    fn values_and_their_absence_are_told_apart() {
        assert_eq!(answered(READ, 5, b"guest").unwrap().as_deref(), Some("guest"));
        assert_eq!(answered(ERROR, 7, b"ENOENT\0").unwrap(), None);
        assert!(answered(ERROR, 7, b"EACCES\0").unwrap_err().to_string().contains("EACCES"));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(answered(READ, u32::MAX, b"").is_err());
        assert!(answered(77, 1, b"x").is_err());
        assert!(answered(READ, 10, b"short").is_err());
    }
}
