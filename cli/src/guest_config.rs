//! A guest's configuration file for xl, used instead of the one in its image.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use comio_backends::xen::SavedConfig;
use tempfile::NamedTempFile;

/// A copy of the configuration `file` for a restore of `saved`, who becomes who that says. xl
/// would draw a new uuid where the file has none: the guest keeps its own, which tells it from
/// all others.
///
/// # Errors
/// When the file cannot be read, lacks a name, or has a uuid that is none.
pub(crate) fn for_restore(file: &Path, saved: &mut SavedConfig) -> anyhow::Result<NamedTempFile> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let Some(name) = setting(&text, "name") else {
        bail!("{} is no configuration of a guest: it has no line name = \"...\"", file.display());
    };
    name.clone_into(&mut saved.name);
    let mut copy = NamedTempFile::with_prefix("comio-").context("cannot make a temporary file")?;
    copy.write_all(text.as_bytes())?;
    match setting(&text, "uuid") {
        Some(uuid) => {
            let uuid = uuid::Uuid::parse_str(uuid);
            let uuid = uuid.with_context(|| format!("{}: the line uuid holds no uuid", file.display()))?;
            saved.uuid = uuid.to_string();
        }
        None => writeln!(copy, "\nuuid = \"{}\"", saved.uuid)?,
    }
    Ok(copy)
}

/// The text that `key` is set to; the last line counts, as for xl.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let value = line.trim().strip_prefix(key)?.trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
        value.get(1..)?.split_once(quote).map(|(value, _)| value)
    };
    text.lines().filter_map(value).next_back()
}

#[cfg(test)]
mod test {
    use super::*;

    fn saved() -> SavedConfig {
        SavedConfig { name: "old".to_owned(), uuid: "11111111-2222-4333-8444-555555555555".to_owned() }
    }

    fn given(text: &str) -> anyhow::Result<(SavedConfig, String)> {
        let file = NamedTempFile::new()?;
        fs::write(file.path(), text)?;
        let mut saved = saved();
        let copy = for_restore(file.path(), &mut saved)?;
        Ok((saved, fs::read_to_string(copy.path())?))
    }

    #[test]
    fn a_guest_keeps_its_uuid_under_another_name() {
        let (guest, copy) = given("# name = \"no\"\nname='new' # yes\nmemory = 128").expect("reads");
        assert_eq!((guest.name.as_str(), guest.uuid), ("new", saved().uuid));
        assert!(copy.ends_with("\nuuid = \"11111111-2222-4333-8444-555555555555\"\n"), "{copy}");
    }

    #[test]
    fn a_uuid_of_the_users_own_is_taken() {
        let uuid = "AAAAAAAA-2222-4333-8444-555555555555";
        let text = format!("name = \"new\"\nuuid = \"{uuid}\"\n");
        let (guest, copy) = given(&text).expect("reads");
        assert_eq!((guest.uuid, copy), (uuid.to_lowercase(), text));
    }

    #[test]
    fn a_file_without_a_name_or_with_a_wrong_uuid_is_refused() {
        assert!(given("memory = 128\nname = new\n").is_err());
        assert!(given("name = \"new\"\nuuid = \"../../etc/x\"\n").is_err());
    }
}
