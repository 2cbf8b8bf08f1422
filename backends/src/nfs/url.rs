//! NFS URLs after RFC 2224, with the options that users of libnfs know.
//!
//! `nfs://host[:port]/export/directory/name?option=value&…`. Where the export ends and the
//! path within it begins is not in the URL: the server says so (see `mount`).

use std::fmt;
use std::time::Duration;

use comio_core::storage::{StorageError, StorageErrorKind};

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsUrl {
    /// Host name, IPv4 address, or IPv6 address without its brackets.
    pub host: String,
    /// The path's components, percent-decoded.
    pub path: Vec<String>,
    /// What follows the question mark.
    pub options: NfsOptions,
}

/// How the server is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NfsOptions {
    /// Port of the NFS service (`:port` or `nfsport=`); asked of the portmapper if not given.
    pub nfs_port: Option<u16>,
    /// Port of the MOUNT service (`mountport=`); asked of the portmapper if not given.
    pub mount_port: Option<u16>,
    /// User number in the `AUTH_SYS` credential (`uid=`); the process's own if not given.
    pub uid: Option<u32>,
    /// Group number (`gid=`), likewise.
    pub gid: Option<u32>,
    /// How many TCP connections (`nconnect=`, 1 to 16).
    pub connections: usize,
    /// Most bytes in one WRITE (`wsize=`); the server's preference up to 1 MiB if not given.
    pub write_bytes: Option<u32>,
    /// Most bytes in one READ (`rsize=`), likewise.
    pub read_bytes: Option<u32>,
    /// How long a call may go without any byte moving before its connection is given up
    /// (`timeo=`, in tenths of a second as in mount options).
    pub patience: Duration,
    /// What to do when the server stays away.
    pub retry: Retry,
    /// Most bytes per second, both directions together (`bandwidth=`, with k, M or G).
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Whether to come from a source port below 1024 (`resvport`, `noresvport`); by default
    /// when run as root.
    pub privileged_port: Option<bool>,
}

/// What to do when the server stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Wait for it, however long (`hard`).
    Hard,
    /// Fail once it has been silent that long (`soft`, `soft=SECONDS`).
    Soft(Duration),
}

impl Default for NfsOptions {
    fn default() -> Self {
        Self {
            nfs_port: None,
            mount_port: None,
            uid: None,
            gid: None,
            connections: 2,
            write_bytes: None,
            read_bytes: None,
            patience: Duration::from_secs(60),
            retry: Retry::Hard,
            bandwidth_bytes_per_s: None,
            privileged_port: None,
        }
    }
}

const CONNECTIONS_MAX: usize = 16;
const TRANSFER_BYTES_MIN: u32 = 4096;
/// The most that a READ or WRITE may move.
pub(super) const TRANSFER_BYTES_MAX: u32 = 16 << 20;
const SOFT_DEFAULT: Duration = Duration::from_secs(60);

/// libnfs options about things that this client does not have: harmless, so not refused.
const IGNORED: [&str; 10] = [
    "autoreconnect",
    "auto-traverse-mounts",
    "debug",
    "dircache",
    "if",
    "pagecache",
    "readahead",
    "readdir-buffer",
    "retrans",
    "tcp-syncnt",
];

impl NfsUrl {
    /// Reads a URL that names a directory or an image.
    ///
    /// # Errors
    /// [`StorageErrorKind::InvalidName`], saying what is wrong.
    pub fn parse(text: &str) -> Result<Self, StorageError> {
        let refuse = |problem: String| {
            StorageError::new(StorageErrorKind::InvalidName, "use", format!("the URL {text:?}"), problem)
        };
        let rest = text
            .strip_prefix("nfs://")
            .ok_or_else(|| refuse("an NFS URL is nfs://host/export/directory/name".to_owned()))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (host, port) = split_authority(authority).map_err(refuse)?;
        let mut options = NfsOptions { nfs_port: port, ..NfsOptions::default() };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').map_or((option, None), |(k, v)| (k, Some(v)));
            options.set(key, value).map_err(refuse)?;
        }
        Ok(Self { host, path: split_path(path).map_err(refuse)?, options })
    }

    /// The directory's URL and the last component: where an image is and what it is called.
    ///
    /// # Errors
    /// [`StorageErrorKind::InvalidName`] when the URL has no path.
    pub fn split_name(mut self) -> Result<(Self, String), StorageError> {
        match self.path.pop() {
            Some(name) => Ok((self, name)),
            None => Err(StorageError::new(
                StorageErrorKind::InvalidName,
                "use",
                self.to_string(),
                "the URL names a server but no image: nfs://host/export/directory/name",
            )),
        }
    }
}

impl fmt::Display for NfsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = self.host.contains(':');
        let (open, close) = if colon { ("[", "]") } else { ("", "") };
        write!(f, "nfs://{open}{}{close}", self.host.replace('%', "%25"))?;
        if let Some(port) = self.options.nfs_port {
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.path.join("/"))
    }
}

fn split_authority(authority: &str) -> Result<(String, Option<u16>), String> {
    if authority.contains('@') {
        return Err("NFS has no user names in URLs: give uid= and gid= after a question mark".to_owned());
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket of the IPv6 address is not closed")?;
        let port = rest.strip_prefix(':');
        if port.is_none() && !rest.is_empty() {
            return Err("a port follows the bracket after a colon".to_owned());
        }
        (host, port)
    } else {
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    let port = port.map(|port| number("the port", Some(port))).transpose()?;
    // An IPv6 address on a link names its interface after a percent sign, which is written %25.
    Ok((percent_decode(host)?, port))
}

fn split_path(path: &str) -> Result<Vec<String>, String> {
    let mut components = Vec::new();
    for component in path.split('/').filter(|component| !component.is_empty()) {
        let component = percent_decode(component)?;
        match component.as_str() {
            "." => {}
            ".." => return Err("the path must not contain \"..\"".to_owned()),
            _ if component.contains(['/', '\0']) => {
                return Err("the path contains an encoded slash or zero byte".to_owned());
            }
            _ => components.push(component),
        }
    }
    Ok(components)
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let decoded = after
            .get(..2)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(decoded.ok_or("% must be followed by two hexadecimal digits; a % itself is %25")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "host and path must be UTF-8".to_owned())
}

fn number<T: std::str::FromStr>(what: &str, value: Option<&str>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{what} needs a number"))?;
    value.parse().map_err(|_| format!("{what} is {value:?}, which is no number in its range"))
}

impl NfsOptions {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        match key {
            "uid" => self.uid = Some(number(key, value)?),
            "gid" => self.gid = Some(number(key, value)?),
            "nfsport" | "port" => self.nfs_port = Some(number(key, value)?),
            "mountport" => self.mount_port = Some(number(key, value)?),
            "nconnect" => self.connections = connections(value)?,
            "wsize" => self.write_bytes = Some(transfer_bytes(key, value)?),
            "rsize" => self.read_bytes = Some(transfer_bytes(key, value)?),
            "timeo" => {
                self.patience = Duration::from_millis(100 * u64::from(number::<u32>(key, value)?.max(1)));
            }
            "hard" => self.retry = Retry::Hard,
            "soft" => self.retry = Retry::Soft(soft_limit(value)?),
            "bandwidth" => self.bandwidth_bytes_per_s = Some(bandwidth(value)?),
            "resvport" => self.privileged_port = Some(true),
            "noresvport" => self.privileged_port = Some(false),
            "version" | "vers" | "nfsvers" if value == Some("3") => {}
            "version" | "vers" | "nfsvers" => return Err("only NFS version 3 is spoken".to_owned()),
            "sec" if value == Some("sys") => {}
            "sec" => return Err("only sec=sys is spoken, neither Kerberos nor TLS".to_owned()),
            ignored if IGNORED.contains(&ignored) => {
                tracing::debug!(option = ignored, "option without effect");
            }
            unknown => {
                return Err(format!(
                    "there is no option {unknown:?}; there are uid, gid, nfsport, mountport, nconnect, wsize, \
                     rsize, timeo, hard, soft, bandwidth, resvport and noresvport"
                ));
            }
        }
        Ok(())
    }
}

fn connections(value: Option<&str>) -> Result<usize, String> {
    let connections = number("nconnect", value)?;
    if (1..=CONNECTIONS_MAX).contains(&connections) {
        Ok(connections)
    } else {
        Err(format!("nconnect is {connections}; it must be from 1 to {CONNECTIONS_MAX}"))
    }
}

fn transfer_bytes(key: &str, value: Option<&str>) -> Result<u32, String> {
    let bytes: u32 = number(key, value)?;
    if (TRANSFER_BYTES_MIN..=TRANSFER_BYTES_MAX).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("{key} is {bytes} bytes; it must be from {TRANSFER_BYTES_MIN} to {TRANSFER_BYTES_MAX}"))
    }
}

fn soft_limit(value: Option<&str>) -> Result<Duration, String> {
    let Some(_) = value else { return Ok(SOFT_DEFAULT) };
    match number::<u32>("soft", value)? {
        0 => Err("soft=0 would never wait; give the seconds to wait for a silent server".to_owned()),
        seconds => Ok(Duration::from_secs(seconds.into())),
    }
}

fn bandwidth(value: Option<&str>) -> Result<u64, String> {
    let text = value.unwrap_or("");
    let (digits, unit): (&str, u64) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes_per_s = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes_per_s.filter(|rate| *rate >= 4096).ok_or_else(|| {
        format!("bandwidth is {text:?}; give bytes per second, at least 4096, as in 40M or 400k")
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn parse(text: &str) -> NfsUrl {
        NfsUrl::parse(text).unwrap()
    }

    fn refused(text: &str) -> String {
        let error = NfsUrl::parse(text).unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::InvalidName);
        error.problem
    }

    #[test]
    fn host_port_and_path_are_taken_apart() {
        let url = parse("nfs://nas1:20049/srv//images/./vm%201.comio");
        assert_eq!(url.host, "nas1");
        assert_eq!(url.options.nfs_port, Some(20049));
        assert_eq!(url.path, ["srv", "images", "vm 1.comio"]);
        let (directory, name) = url.split_name().unwrap();
        assert_eq!(directory.to_string(), "nfs://nas1:20049/srv/images");
        assert_eq!(name, "vm 1.comio");
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        let url = parse("nfs://[fd00::7]:2049/x");
        assert_eq!(url.host, "fd00::7");
        assert_eq!(url.to_string(), "nfs://[fd00::7]:2049/x");
        assert_eq!(parse("nfs://[::1]/x").options.nfs_port, None);
        let on_link = parse("nfs://[fe80::1%25eth0]/x");
        assert_eq!(on_link.host, "fe80::1%eth0");
        assert_eq!(on_link.to_string(), "nfs://[fe80::1%25eth0]/x");
        refused("nfs://[fe80::1%eth0]/x");
        refused("nfs://[::1/x");
        refused("nfs://[::1]2049/x");
    }

    #[test]
    fn options_of_libnfs_and_of_mount_are_understood() {
        let url = parse(
            "nfs://h/x?uid=0&gid=5&nfsport=1&mountport=2&nconnect=4&wsize=65536&rsize=4096&timeo=50\
             &soft=9&bandwidth=40M&noresvport&version=3&sec=sys&readahead=100&tcp-syncnt=3&if=eth0\
             &readdir-buffer=8192",
        );
        let expected = NfsOptions {
            nfs_port: Some(1),
            mount_port: Some(2),
            uid: Some(0),
            gid: Some(5),
            connections: 4,
            write_bytes: Some(65536),
            read_bytes: Some(4096),
            patience: Duration::from_secs(5),
            retry: Retry::Soft(Duration::from_secs(9)),
            bandwidth_bytes_per_s: Some(40_000_000),
            privileged_port: Some(false),
        };
        assert_eq!(url.options, expected);
        assert_eq!(parse("nfs://h/x?soft&hard").options, NfsOptions::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for (url, word) in [
            ("http://h/x", "nfs://host"),
            ("nfs:///x", "host is missing"),
            ("nfs://u@h/x", "uid="),
            ("nfs://h:70000/x", "port"),
            ("nfs://h/a/../b", ".."),
            ("nfs://h/a%2fb", "slash"),
            ("nfs://h/a%0", "%25"),
            ("nfs://h/%ff", "UTF-8"),
            ("nfs://h/x?nconnect=0", "from 1 to 16"),
            ("nfs://h/x?wsize=1", "4096"),
            ("nfs://h/x?soft=0", "soft=0"),
            ("nfs://h/x?bandwidth=fast", "bytes per second"),
            ("nfs://h/x?version=4", "version 3"),
            ("nfs://h/x?sec=krb5", "Kerberos"),
            ("nfs://h/x?colour=red", "there is no option"),
            ("nfs://h/x?uid", "needs a number"),
        ] {
            let problem = refused(url);
            assert!(problem.contains(word), "{url}: {problem}");
        }
        assert!(parse("nfs://h").split_name().is_err());
    }
}
