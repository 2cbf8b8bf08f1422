//! The guest's configuration in a save file's header: who is it, and how to give it another name.

use comio_core::tape::TapeError;
use serde_json::Value;

use super::format::{Part, XL_HEADER_LEN};
use super::frame::{Decoder, Event, damaged, put_magic, put_part};

/// A configuration is a few KiB; xl itself sets no limit.
const CONFIG_LEN_MAX: u64 = 1 << 20;
/// Where the header holds the length of what follows it.
const OPTIONAL_LEN_AT: usize = 44;

/// Who a saved guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedConfig {
    /// Its name.
    pub name: String,
    /// Its uuid, in lower case.
    pub uuid: String,
}

impl SavedConfig {
    /// Reads it from the first bytes of a frame; `None` while more are needed.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] when the frame is damaged or holds no configuration that we know.
    pub fn read(frame: &[u8]) -> Result<Option<Self>, TapeError> {
        let Some(opening) = Opening::read(frame)? else { return Ok(None) };
        let json = opening.json()?;
        let text = |key: &str| json["c_info"][key].as_str().map(ToOwned::to_owned);
        let (Some(name), Some(uuid)) = (text("name"), text("uuid")) else {
            return Err(damaged("the guest's configuration lacks a name or a uuid"));
        };
        let is_uuid = uuid.len() == 36 && uuid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if !is_uuid {
            return Err(damaged("the guest's configuration names no valid uuid"));
        }
        Ok(Some(Self { name, uuid: uuid.to_lowercase() }))
    }
}

/// The frame's beginning, up to the end of the configuration.
struct Opening {
    header: Vec<u8>,
    config: Vec<u8>,
    /// Frame bytes that it takes.
    len: usize,
}

impl Opening {
    fn read(frame: &[u8]) -> Result<Option<Self>, TapeError> {
        let mut decoder = Decoder::default();
        let mut rest = frame;
        let (mut header, mut config, mut config_len) = (Vec::new(), Vec::new(), None);
        loop {
            if config_len == Some(config.len() as u64) {
                return Ok(Some(Self { header, config, len: frame.len() - rest.len() }));
            }
            match decoder.next(&mut rest)? {
                None => return Ok(None),
                Some(Event::Part { part: Part::XlHeader, len }) if len == XL_HEADER_LEN as u64 => {}
                Some(Event::Part { part: Part::XlConfig, len }) if len <= CONFIG_LEN_MAX => {
                    config_len = Some(len);
                }
                Some(Event::Bytes(bytes)) if config_len.is_some() => config.extend_from_slice(bytes),
                Some(Event::Bytes(bytes)) => header.extend_from_slice(bytes),
                Some(_) => return Err(damaged("a configuration was expected")),
            }
        }
    }

    fn json(&self) -> Result<Value, TapeError> {
        let text =
            self.json_bytes().ok_or_else(|| damaged("the guest's configuration has no valid length"))?;
        serde_json::from_slice(text).map_err(|_| damaged("the guest's configuration is not JSON"))
    }

    /// The optional data are a length, the text and a zero byte, and what later versions may add.
    fn json_bytes(&self) -> Option<&[u8]> {
        let (len, rest) = self.config.split_first_chunk()?;
        let text = rest.get(..usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        Some(text.strip_suffix(b"\0").unwrap_or(text))
    }

    /// The same with the guest called `name`.
    fn renamed(mut self, name: &str) -> Result<Vec<u8>, TapeError> {
        let mut json = self.json()?;
        let old_len = self.json_bytes().map_or(0, <[u8]>::len);
        if json["c_info"]["name"] == name {
            return Ok(Vec::new());
        }
        json["c_info"]["name"] = Value::from(name);
        let text = serde_json::to_vec(&json).map_err(|_| damaged("the guest's configuration is not JSON"))?;
        let too_long = |_| damaged("the guest's configuration is too long");
        let mut config = u32::try_from(text.len() + 1).map_err(too_long)?.to_le_bytes().to_vec();
        config.extend(text);
        config.push(0);
        let added = self.config.get(4 + old_len + 1..).unwrap_or_default();
        config.extend_from_slice(added);
        let len = u32::try_from(config.len()).map_err(too_long)?.to_le_bytes();
        let field = self.header.get_mut(OPTIONAL_LEN_AT..OPTIONAL_LEN_AT + 4);
        field.ok_or_else(|| damaged("its header is too short"))?.copy_from_slice(&len);
        let mut frame = Vec::new();
        put_magic(&mut frame);
        put_part(Part::XlHeader, self.header.len() as u64, &mut frame);
        frame.extend(&self.header);
        put_part(Part::XlConfig, config.len() as u64, &mut frame);
        frame.extend(config);
        Ok(frame)
    }
}

/// Gives the guest another name on its way to xl.
#[derive(Debug)]
pub struct ConfigEditor {
    name: String,
    /// Frame bytes held until the configuration is complete; `None` after that.
    held: Option<Vec<u8>>,
}

impl ConfigEditor {
    /// The guest will be called `name`.
    pub fn renaming(name: &str) -> Self {
        Self { name: name.to_owned(), held: Some(Vec::new()) }
    }

    /// The next frame bytes, as they are to be.
    ///
    /// # Errors
    /// [`TapeError::Inconsistent`] for a frame without a configuration that we know.
    pub fn edit(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, TapeError> {
        let Some(held) = &mut self.held else { return Ok(bytes) };
        held.extend(bytes);
        let Some(opening) = Opening::read(held)? else { return Ok(Vec::new()) };
        let rest = opening.len;
        let held = self.held.take().unwrap_or_default();
        let mut frame = opening.renamed(&self.name)?;
        if frame.is_empty() {
            return Ok(held);
        }
        frame.extend_from_slice(held.get(rest..).unwrap_or_default());
        Ok(frame)
    }
}
