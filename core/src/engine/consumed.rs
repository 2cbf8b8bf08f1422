//! Images that must not be restored (again): their guest was restored, or went on after they were taken.
//!
//! Two lives on one disk corrupt it. What was done with an image stands beside it in its storage,
//! because the next restore may be asked for on another host: an object of its own, the *mark*,
//! whose name holds the image's uuid. It is published only if there is none, so of two hosts that
//! restore an image at once one goes on; and a newer image under an old name has no mark.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;

use futures::future::{Either, select};

use super::commit::owned;
use super::{EngineError, Image};
use crate::buffer::Buffer;
use crate::format::ImageUuid;
use crate::moment;
use crate::storage::{CreateOptions, ObjectInfo, Storage, StorageError, StorageErrorKind};

const PREFIX: &str = ".";
const SUFFIX: &str = ".comio-used";
/// First line of a mark; then why, where, and when, a line each.
const TITLE: &str = "comio-used 1";
/// No mark is longer; of what is, no more is read.
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
    /// In one word, as marks and `--json` have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::RanOn => "ran-on",
            Self::Unknown => "unknown",
        }
    }
}

/// What a mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// The image.
    pub image: ImageUuid,
    /// Why.
    pub why: ConsumedBy,
    /// On which host; empty if nobody knows.
    pub host: String,
    /// When, in seconds since 1970; 0 if nobody knows.
    pub unix_seconds: u64,
}

impl fmt::Display for Consumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.why {
            ConsumedBy::Restored => "its guest was restored",
            ConsumedBy::RanOn => "its guest went on after it was taken",
            ConsumedBy::Unknown => return f.write_str("it has a mark that this version cannot read"),
        })?;
        write!(f, " (on {}, {})", self.host.escape_debug(), moment::utc(self.unix_seconds))
    }
}

impl Consumed {
    fn text(&self) -> String {
        // A line break would make two lines of the host.
        let host = self.host.replace(char::is_control, " ");
        format!("{TITLE}\n{}\n{host}\n{}\n", self.why.word(), self.unix_seconds)
    }

    /// A text that is not understood is a mark all the same: somebody used the image.
    fn parse(image: ImageUuid, text: &str) -> Self {
        let unknown = Self { image, why: ConsumedBy::Unknown, host: String::new(), unix_seconds: 0 };
        let mut lines = text.lines();
        let (Some(TITLE), Some(why), Some(host), Some(time)) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return unknown;
        };
        let why = match why {
            "restored" => ConsumedBy::Restored,
            "ran-on" => ConsumedBy::RanOn,
            _ => return unknown,
        };
        Self { image, why, host: host.to_owned(), unix_seconds: time.parse().unwrap_or(0) }
    }
}

fn mark_name(image: &ImageUuid) -> String {
    format!("{PREFIX}{:032x}{SUFFIX}", u128::from_be_bytes(*image))
}

/// The image whose mark has this name.
fn marked_image(name: &str) -> Option<ImageUuid> {
    let hex = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let mut image = ImageUuid::default();
    if hex.len() != 2 * image.len() {
        return None;
    }
    for (byte, digits) in image.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    // Exactly what `mark_name` gives: no capitals, no signs.
    (mark_name(&image) == name).then_some(image)
}

/// Whether an object of this name is a mark, and no image.
pub fn is_mark(name: &str) -> bool {
    marked_image(name).is_some()
}

/// The mark of the image `image`, if there is one.
///
/// # Errors
/// The storage's: then nobody knows, and the image must not be taken for unused.
pub async fn consumed(storage: &dyn Storage, image: &ImageUuid) -> Result<Option<Consumed>, EngineError> {
    let reader = match storage.open(&mark_name(image)).await {
        Ok(reader) => reader,
        Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let len = usize::try_from(reader.len().min(LEN_MAX)).unwrap_or_default();
    let text = match len {
        0 => Vec::new(),
        _ => reader.read_at(0, len, Buffer::unpooled(vec![0; len])).await?.into_bytes()?.to_vec(),
    };
    Ok(Some(Consumed::parse(*image, &String::from_utf8_lossy(&text))))
}

/// Marks the image `name`, durably, before its guest starts. `unique` is a number that no other
/// call has, on any host.
///
/// # Errors
/// [`EngineError::AlreadyConsumed`] if it has a mark and `force` does not replace that; the storage's.
pub async fn consume(
    storage: &dyn Storage,
    name: &str,
    mark: &Consumed,
    force: bool,
    unique: u64,
) -> Result<(), EngineError> {
    let error = match publish(storage, mark, force, unique).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if error.kind == StorageErrorKind::AlreadyExists
        && let Some(there) = consumed(storage, &mark.image).await?
    {
        return Err(EngineError::AlreadyConsumed(name.to_owned(), Box::new(there)));
    }
    Err(error.into())
}

async fn publish(
    storage: &dyn Storage,
    mark: &Consumed,
    replace: bool,
    unique: u64,
) -> Result<(), StorageError> {
    let text = mark.text();
    let options = CreateOptions { replace, held_bytes_max: text.len(), unique };
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
}

/// To be called with the failure of a save whose guest runs on: if nobody knows whether the image is
/// there, it is marked with `mark`, since its guest goes on. Gives the failure, with what came of that.
/// A storage that does not answer is waited for until `too_late` ends.
pub async fn mark_in_doubt(
    storage: &dyn Storage,
    name: &str,
    mark: &Consumed,
    unique: u64,
    mut failure: EngineError,
    too_late: impl Future<Output = ()>,
) -> EngineError {
    match &mut failure {
        EngineError::Storage(error) if error.kind == StorageErrorKind::InDoubt => {
            let marking = consume(storage, name, mark, true, unique);
            let marked = match select(pin!(marking), pin!(too_late)).await {
                Either::Left((marked, _)) => marked,
                Either::Right(_) => Err(EngineError::Stopped),
            };
            error.problem.push_str(&what_came_of(marked));
        }
        // A mark would be in the way of who ends the guest because its image is there.
        EngineError::StillHeld { failure, .. } => {
            if let EngineError::Storage(error) = &mut **failure
                && error.kind == StorageErrorKind::InDoubt
            {
                error.problem.push_str(HELD_IN_DOUBT);
            }
        }
        _ => {}
    }
    failure
}

/// What is said of an image that may be there, and whose guest stands still.
const HELD_IN_DOUBT: &str = ". If it is there, it may still have to be marked as used: let the guest run with comio recover, which does that, and never restore the image beside it";

fn what_came_of(marked: Result<(), EngineError>) -> String {
    match marked {
        Ok(()) => ". If it is there, it is marked as used: its guest goes on".to_owned(),
        Err(why) => format!(
            ". It could not be marked as used ({why}): if it is there, remove it, and never restore it, for its guest goes on"
        ),
    }
}

/// Takes the mark away: the guest did not start, or the image is gone. None there is no error.
///
/// # Errors
/// The storage's.
pub async fn unconsume(storage: &dyn Storage, image: &ImageUuid) -> Result<(), EngineError> {
    match storage.remove(&mark_name(image)).await {
        Err(error) if error.kind != StorageErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Marks whose image is not in `storage`, such as one that was replaced: nobody needs them.
///
/// # Errors
/// The storage's: an image that cannot be looked into may be the one that a mark belongs to.
pub async fn orphaned_marks(storage: &dyn Storage) -> Result<Vec<ObjectInfo>, EngineError> {
    let objects = storage.list().await?;
    let (marks, others): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| is_mark(&object.name));
    if marks.is_empty() {
        return Ok(marks);
    }
    let mut images = BTreeSet::new();
    for object in others {
        let reader = match storage.open(&object.name).await {
            Ok(reader) => reader,
            Err(error) if error.kind == StorageErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        match Image::open(reader).await {
            Ok(image) => images.extend([image.superblock().uuid]),
            // No image, or one that nobody can restore as it is.
            Err(EngineError::Format(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let orphaned = |mark: &ObjectInfo| marked_image(&mark.name).is_some_and(|image| !images.contains(&image));
    Ok(marks.into_iter().filter(orphaned).collect())
}

#[cfg(test)]
mod test {
    use std::future::{pending, ready};

    use futures::executor::block_on;

    use super::*;
    use crate::testing::MemoryStorage;

    const IMAGE: ImageUuid = [7; 16];

    fn mark(why: ConsumedBy) -> Consumed {
        Consumed { image: IMAGE, why, host: "xen1".to_owned(), unix_seconds: 5 }
    }

    fn there(storage: &MemoryStorage) -> Option<Consumed> {
        block_on(consumed(storage, &IMAGE)).expect("reads")
    }

    #[test]
    fn an_image_is_marked_once_and_again_only_by_force() {
        let storage = MemoryStorage::new();
        let first = mark(ConsumedBy::Restored);
        block_on(consume(&storage, "guest", &first, false, 1)).expect("marks");
        let again = block_on(consume(&storage, "guest", &mark(ConsumedBy::RanOn), false, 2));
        let again = again.expect_err("is marked");
        assert!(matches!(&again, EngineError::AlreadyConsumed(name, by) if name == "guest" && **by == first));
        let message = again.to_string();
        assert!(message.contains("xen1") && message.contains("--force"), "{message}");
        assert_eq!(there(&storage), Some(first));
        block_on(consume(&storage, "guest", &mark(ConsumedBy::RanOn), true, 3)).expect("by force");
        assert_eq!(there(&storage), Some(mark(ConsumedBy::RanOn)));
        assert_eq!(block_on(consumed(&storage, &[8; 16])).expect("reads"), None, "another image");
        assert_eq!(block_on(storage.leftovers()).expect("lists"), []);
        block_on(unconsume(&storage, &IMAGE)).expect("removes");
        block_on(unconsume(&storage, &IMAGE)).expect("is gone already");
        assert_eq!(there(&storage), None);
    }

    #[test]
    fn of_two_that_saw_no_mark_one_goes_on() {
        let storage = MemoryStorage::new();
        let name = mark_name(&IMAGE);
        let options = CreateOptions { replace: false, held_bytes_max: 4096, unique: 1 };
        let slower = block_on(storage.create(&name, options)).expect("no mark yet");
        block_on(consume(&storage, "guest", &mark(ConsumedBy::Restored), false, 2)).expect("wins");
        let error = block_on(slower.publish()).expect_err("loses");
        assert_eq!(error.kind, StorageErrorKind::AlreadyExists);
        assert_eq!(there(&storage), Some(mark(ConsumedBy::Restored)));
    }

    #[test]
    fn an_image_that_may_be_there_is_marked_when_its_guest_goes_on() {
        let storage = MemoryStorage::new();
        let mark = mark(ConsumedBy::RanOn);
        let failure =
            |kind| EngineError::Storage(StorageError::new(kind, "publish", "guest", "no answer came"));
        let told = |kind| {
            let marking = mark_in_doubt(&storage, "guest", &mark, 1, failure(kind), pending());
            block_on(marking).to_string()
        };
        assert!(!told(StorageErrorKind::Unreachable).contains("used"));
        assert_eq!(there(&storage), None);
        let words = told(StorageErrorKind::InDoubt);
        assert!(words.contains("marked as used"), "{words}");
        assert_eq!(there(&storage), Some(mark.clone()));
    }

    #[test]
    fn who_cannot_mark_an_image_that_may_be_there_is_told_not_to_restore_it() {
        let mut storage = crate::storage::MockStorage::new();
        let failure = |kind| StorageError::new(kind, "publish", "x", "nobody answers");
        storage.expect_create().returning(move |_, _| Err(failure(StorageErrorKind::Unreachable)));
        let doubt = EngineError::Storage(failure(StorageErrorKind::InDoubt));
        let told = block_on(mark_in_doubt(&storage, "guest", &mark(ConsumedBy::RanOn), 1, doubt, pending()));
        assert!(told.to_string().contains("never restore it"), "{told}");
    }

    #[test]
    fn a_storage_that_never_answers_is_waited_for_until_it_is_too_late() {
        let doubt = StorageError::new(StorageErrorKind::InDoubt, "publish", "guest", "no answer came");
        let mark = mark(ConsumedBy::RanOn);
        let marking = mark_in_doubt(&Silent, "guest", &mark, 1, doubt.into(), ready(()));
        let told = block_on(marking).to_string();
        assert!(told.contains("could not be marked as used (stopped)"), "{told}");
    }

    /// A storage that never answers.
    struct Silent;

    #[async_trait::async_trait]
    impl Storage for Silent {
        fn location(&self) -> String {
            String::new()
        }

        async fn create(
            &self,
            _: &str,
            _: CreateOptions,
        ) -> Result<Box<dyn crate::storage::ObjectWriter>, StorageError> {
            pending().await
        }

        async fn open(&self, _: &str) -> Result<Box<dyn crate::storage::ObjectReader>, StorageError> {
            pending().await
        }

        async fn list(&self) -> Result<Vec<ObjectInfo>, StorageError> {
            pending().await
        }

        async fn remove(&self, _: &str) -> Result<(), StorageError> {
            pending().await
        }

        async fn leftovers(&self) -> Result<Vec<ObjectInfo>, StorageError> {
            pending().await
        }

        async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
            pending().await
        }
    }

    #[test]
    fn a_mark_that_is_not_understood_is_one_all_the_same() {
        for text in
            ["", "comio-used 2\nrestored\nx\n1\n", "comio-used 1\nrestored\n", "comio-used 1\nnew\nx\n1\n"]
        {
            let storage = MemoryStorage::new();
            storage.insert(&mark_name(&IMAGE), text.into());
            assert_eq!(there(&storage).map(|mark| mark.why), Some(ConsumedBy::Unknown), "{text:?}");
            let marked = block_on(consume(&storage, "guest", &mark(ConsumedBy::RanOn), false, 1));
            assert!(matches!(marked, Err(EngineError::AlreadyConsumed(..))), "{text:?}");
        }
    }

    #[test]
    fn a_host_cannot_add_lines() {
        let mut forged = mark(ConsumedBy::RanOn);
        forged.host = "a\nb".to_owned();
        assert_eq!(Consumed::parse(IMAGE, &forged.text()).unix_seconds, 5);
    }

    #[test]
    fn a_storage_that_fails_is_not_taken_for_an_unused_image() {
        let mut storage = crate::storage::MockStorage::new();
        let failure = || StorageError::new(StorageErrorKind::Unreachable, "open", "x", "nobody answers");
        storage.expect_open().returning(move |_| Err(failure()));
        assert!(matches!(block_on(consumed(&storage, &IMAGE)), Err(EngineError::Storage(_))));
    }

    #[test]
    fn marks_are_told_from_images_by_name() {
        assert_eq!(marked_image(&mark_name(&[0xfa; 16])), Some([0xfa; 16]));
        let capitals = mark_name(&[0xfa; 16]).to_uppercase().replace("COMIO-USED", "comio-used");
        let signs = format!(".{}.comio-used", "+1".repeat(16));
        let euros = format!(".{}ab.comio-used", "€".repeat(10));
        for name in
            ["guest", ".comio-used", ".00.comio-used", &mark_name(&IMAGE)[1..], &capitals, &signs, &euros]
        {
            assert!(!is_mark(name), "{name}");
        }
    }
}
