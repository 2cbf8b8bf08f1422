//! Images whose guest lives on elsewhere: restored once, or taken while the guest went on.
//!
//! Two lives on one disk corrupt it, so such an image is restored (again) only by force. The mark
//! stands beside the image, since the next restore may be asked for on another host: an object of
//! its own whose name holds the image's uuid. Making it fails if it is there, so of two hosts that
//! restore one image at once only one goes on; a new image under an old name has no mark.

use super::EngineError;
use super::commit::owned;
use crate::buffer::Buffer;
use crate::format::ImageUuid;
use crate::storage::{CreateOptions, Storage, StorageErrorKind};

const PREFIX: &str = ".";
const SUFFIX: &str = ".comio-used";
/// First line of a mark; the rest is why, where, and when.
const TITLE: &str = "comio-used 1";
/// A mark is a few words.
const LEN_MAX: u64 = 4096;

/// Why an image must not be restored (again).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumedBy {
    /// Its guest was restored.
    Restored,
    /// Its guest went on after the image was taken.
    RanOn,
    /// A mark that this version cannot read.
    Unknown,
}

impl ConsumedBy {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::RanOn => "ran-on",
            Self::Unknown => "unknown",
        }
    }
}

/// A mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// Which image.
    pub image: ImageUuid,
    /// Why.
    pub why: ConsumedBy,
    /// On which host.
    pub host: String,
    /// When, in seconds since 1970.
    pub unix_s: u64,
}

impl Consumed {
    fn text(&self) -> String {
        format!("{TITLE}\n{}\n{}\n{}\n", self.why.word(), self.host, self.unix_s)
    }

    /// A text that is not understood is a mark all the same: somebody used the image.
    fn parse(image: ImageUuid, text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let (why, host, unix_s) = match lines.as_slice() {
            [TITLE, "restored", host, time, ..] => (ConsumedBy::Restored, *host, time.parse().unwrap_or(0)),
            [TITLE, "ran-on", host, time, ..] => (ConsumedBy::RanOn, *host, time.parse().unwrap_or(0)),
            _ => (ConsumedBy::Unknown, "", 0),
        };
        Self { image, why, host: host.to_owned(), unix_s }
    }
}

/// The name of the mark of image `image`.
fn mark_name(image: &ImageUuid) -> String {
    format!("{PREFIX}{:032x}{SUFFIX}", u128::from_be_bytes(*image))
}

/// Whether an object of this name is a mark, and no image.
pub fn is_mark(name: &str) -> bool {
    let hex = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    hex.is_some_and(|hex| {
        hex.len() == 2 * size_of::<ImageUuid>() && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The mark of `image`, if there is one.
///
/// # Errors
/// [`EngineError::Storage`].
pub async fn consumed(storage: &dyn Storage, image: &ImageUuid) -> Result<Option<Consumed>, EngineError> {
    let reader = match storage.open(&mark_name(image)).await {
        Ok(reader) => reader,
        Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let len = usize::try_from(reader.len().min(LEN_MAX)).unwrap_or_default();
    let text = if len == 0 {
        Vec::new()
    } else {
        reader.read_at(0, len, Buffer::unpooled(vec![0; len])).await?.into_bytes()?.to_vec()
    };
    Ok(Some(Consumed::parse(*image, &String::from_utf8_lossy(&text))))
}

/// Marks an image, durably. `unique` is a number that no other call uses.
///
/// # Errors
/// [`EngineError::Consumed`] if it has a mark and `force` does not say to replace that;
/// [`EngineError::Storage`].
pub async fn consume(
    storage: &dyn Storage,
    mark: &Consumed,
    force: bool,
    unique: u64,
) -> Result<(), EngineError> {
    if !force && let Some(there) = consumed(storage, &mark.image).await? {
        return Err(EngineError::Consumed(Box::new(there)));
    }
    let text = mark.text();
    let options = CreateOptions { replace: force, held_bytes_max: text.len(), unique };
    let made = async {
        let writer = storage.create(&mark_name(&mark.image), options).await?;
        let written = async {
            writer.write_at(0, owned(text.as_bytes())).await?;
            writer.sync().await
        };
        if let Err(error) = written.await {
            // The first failure is what the user must know.
            let _ = writer.abandon().await;
            return Err(error);
        }
        writer.publish().await
    };
    match made.await {
        // Another host was faster.
        Err(error) if error.kind == StorageErrorKind::AlreadyExists && !force => {
            let there = consumed(storage, &mark.image).await?;
            Err(there.map_or(EngineError::Storage(error), |there| EngineError::Consumed(Box::new(there))))
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

/// Takes the mark of `image` away; none is no error.
///
/// # Errors
/// [`EngineError::Storage`].
pub async fn unconsume(storage: &dyn Storage, image: &ImageUuid) -> Result<(), EngineError> {
    match storage.remove(&mark_name(image)).await {
        Err(error) if error.kind != StorageErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod test {
    use futures::executor::block_on;

    use super::*;
    use crate::testing::MemoryStorage;

    fn mark(why: ConsumedBy) -> Consumed {
        Consumed { image: [7; 16], why, host: "xen1".to_owned(), unix_s: 5 }
    }

    #[test]
    fn an_image_is_marked_once_and_again_only_by_force() {
        let storage = MemoryStorage::new();
        let first = mark(ConsumedBy::Restored);
        block_on(consume(&storage, &first, false, 1)).expect("marks");
        let again = block_on(consume(&storage, &mark(ConsumedBy::RanOn), false, 2));
        assert!(matches!(again, Err(EngineError::Consumed(there)) if *there == first));
        block_on(consume(&storage, &mark(ConsumedBy::RanOn), true, 3)).expect("by force");
        let there = block_on(consumed(&storage, &[7; 16])).expect("reads").expect("is there");
        assert_eq!(there, mark(ConsumedBy::RanOn));
        assert_eq!(block_on(consumed(&storage, &[8; 16])).expect("reads"), None);
        block_on(unconsume(&storage, &[7; 16])).expect("removes");
        block_on(unconsume(&storage, &[7; 16])).expect("is gone already");
        assert_eq!(block_on(consumed(&storage, &[7; 16])).expect("reads"), None);
    }

    #[test]
    fn a_mark_that_is_not_understood_is_one_all_the_same() {
        for text in ["", "comio-used 2\nrestored\n", "comio-used 1\nrestored\n"] {
            assert_eq!(Consumed::parse([0; 16], text).why, ConsumedBy::Unknown, "{text:?}");
        }
    }

    #[test]
    fn marks_are_told_from_images_by_name() {
        assert!(is_mark(&mark_name(&[255; 16])));
        for name in
            ["guest.comio", ".comio-used", ".00.comio-used", "00000000000000000000000000000000.comio-used"]
        {
            assert!(!is_mark(name), "{name}");
        }
    }
}
