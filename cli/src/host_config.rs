//! The host's configuration: what `save --all` and `restore --all` do where nobody says.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Deserialize;

use crate::args;

/// Where it is looked for.
const PATH: &str = "/etc/comio/host.toml";

/// `/etc/comio/host.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct HostConfig {
    /// The directory of images.
    pub(crate) storage: Option<String>,
    /// Guests at once.
    pub(crate) jobs: Option<usize>,
    /// Names of guests that come first, in this order.
    order: Vec<String>,
    /// Names or uuids of guests that are left alone. No numbers: those change with each start.
    exclude: Vec<String>,
    /// How long a save of all may take, such as "5m".
    deadline: Option<String>,
    /// What becomes of guests that are not saved by then, or whose save failed.
    #[serde(alias = "on_deadline")]
    pub(crate) on_deadline: OnDeadline,
}

/// What becomes of guests that could not be saved in time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnDeadline {
    /// They run on, until whoever ends the host ends them.
    #[default]
    KeepRunning,
    /// They are asked to shut down.
    Shutdown,
}

impl HostConfig {
    /// The configuration in `path`; without one the usual place, where it may be missing.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = path.unwrap_or(Path::new(PATH));
        let text = match std::fs::read_to_string(file) {
            Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            text => text.with_context(|| format!("cannot read {}", file.display()))?,
        };
        toml::from_str(&text).with_context(|| format!("{} is not right", file.display()))
    }

    /// The deadline.
    pub(crate) fn deadline(&self) -> anyhow::Result<Option<Duration>> {
        self.deadline.as_deref().map(args::duration).transpose().map_err(|problem| anyhow!(problem))
    }

    /// Whether the guest of that name and uuid is left alone.
    pub(crate) fn excludes(&self, name: &str, uuid: &str) -> bool {
        self.exclude.iter().any(|other| other == name || other.eq_ignore_ascii_case(uuid))
    }

    /// Puts first what `order` names, in that order; the rest stays as it is.
    pub(crate) fn sort<T>(&self, guests: &mut [T], name: impl Fn(&T) -> &str) {
        let place =
            |guest: &T| self.order.iter().position(|other| other == name(guest)).unwrap_or(self.order.len());
        guests.sort_by_key(place);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_named_come_first() {
        let config: HostConfig =
            toml::from_str("order = [\"c\", \"a\"]\non_deadline = \"shutdown\"\ndeadline = \"5m\"")
                .expect("parses");
        let mut guests = ["a", "b", "c", "d"];
        config.sort(&mut guests, |guest| guest);
        assert_eq!(guests, ["c", "a", "b", "d"]);
        assert_eq!(config.on_deadline, OnDeadline::Shutdown);
        assert_eq!(config.deadline().expect("a time"), Some(Duration::from_secs(300)));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<HostConfig>("order_ = []").is_err());
    }
}
