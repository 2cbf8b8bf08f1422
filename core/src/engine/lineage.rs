//! An image's ancestors, found and opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};

use super::{EngineError, Image, OpenReads};
use crate::buffer::Buffer;
use crate::format::ancestor::Ancestor;
use crate::format::superblock::Superblock;
use crate::format::{BLOCK, FormatError, ImageUuid};
use crate::segment::RestsOn;
use crate::storage::{ObjectReader, Storage, StorageError, StorageErrorKind};

/// Ancestors opened at once.
const ANCESTORS_AT_ONCE: usize = 8;

/// Why pages kept in an ancestor cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AncestorProblem {
    /// No image with its uuid was found.
    #[error("it was not found beside the image; give its directory with --ancestors")]
    Missing,
    /// An image with its uuid is there, but its contents are not those that pages were compared with.
    #[error("the image of that uuid is not the one that was saved upon: it was changed since")]
    Changed,
    /// It is there, and damaged.
    #[error("{0}")]
    Damaged(FormatError),
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
}

impl AncestorProblem {
    /// Whether bytes differ from what was written, as opposed to not being found.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Changed => true,
            // One bit can make an image look like none.
            Self::Damaged(error) => !matches!(error, FormatError::Unsupported(_)),
            Self::Missing | Self::Unreadable(_) => false,
        }
    }

    /// This problem, or `other` if this one says only that nothing was found.
    fn or(self, other: Self) -> Self {
        if self == Self::Missing { other } else { self }
    }
}

impl From<EngineError> for AncestorProblem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Format(error) => Self::Damaged(error),
            other => Self::Unreadable(other.to_string()),
        }
    }
}

/// One ancestor, and its image or why there is none.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) ancestor: Ancestor,
    /// Whether a page rests on it: an image may go that its descendants only name.
    pub(super) is_needed: bool,
    pub(super) image: Result<Arc<Image>, AncestorProblem>,
}

impl Member {
    /// Its image.
    ///
    /// # Errors
    /// [`EngineError::Ancestor`].
    pub(super) fn image(&self) -> Result<&Arc<Image>, EngineError> {
        self.image.as_ref().map_err(|problem| self.error(problem.clone()))
    }

    fn error(&self, problem: AncestorProblem) -> EngineError {
        EngineError::Ancestor { ancestor: Box::new(self.ancestor.clone()), problem }
    }
}

/// All ancestors of an image, in the order of its superblock.
#[derive(Debug, Clone, Default)]
pub(super) struct Lineage {
    pub(super) members: Vec<Member>,
}

impl Lineage {
    /// Of an image whose ancestors nobody has looked for yet.
    pub(super) fn unknown(ancestors: &[Ancestor], rests_on: &RestsOn) -> Self {
        let member = |(ancestor, &pages): (&Ancestor, &u64)| Member {
            ancestor: ancestor.clone(),
            is_needed: pages > 0,
            image: Err(AncestorProblem::Missing),
        };
        Self { members: ancestors.iter().zip(rests_on).map(member).collect() }
    }

    /// The ancestor that a reference names.
    ///
    /// # Errors
    /// [`EngineError::Ancestor`] when it is not at hand; damage when there is none such.
    pub(super) fn member(&self, number: u8) -> Result<&Arc<Image>, EngineError> {
        let member = self.members.get(usize::from(number)).ok_or_else(|| {
            FormatError::damaged(0, "a page table", format!("it names ancestor {number}, which there is not"))
        })?;
        member.image()
    }

    /// What errors call ancestor `number`.
    pub(super) fn name(&self, number: u8) -> String {
        let member = self.members.get(usize::from(number));
        member.map_or_else(|| format!("ancestor {number}"), |member| member.ancestor.to_string())
    }

    /// Under which number the image `uuid` is an ancestor.
    #[expect(clippy::cast_possible_truncation, reason = "at most 16 ancestors")]
    pub(super) fn number_of(&self, uuid: &ImageUuid) -> Option<u8> {
        self.members.iter().position(|member| member.ancestor.uuid == *uuid).map(|number| number as u8)
    }

    /// Whether every ancestor is at hand that a page rests on.
    ///
    /// # Errors
    /// [`EngineError::Ancestor`] for the first that is not.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        let mut needed = self.members.iter().filter(|member| member.is_needed);
        needed.try_for_each(|member| member.image().map(|_| ()))
    }

    /// What loading the ancestors' page tables has cost.
    pub(super) fn index_cost(&self) -> OpenReads {
        let mut sum = OpenReads::default();
        for image in self.members.iter().filter_map(|member| member.image.as_ref().ok()) {
            let cost = image.own_index_cost();
            sum.reads += cost.reads;
            sum.bytes += cost.bytes;
        }
        sum
    }
}

/// Looks for the ancestors of `unknown` that pages rest on in `places`, by recorded name first, then by
/// uuid.
pub(super) async fn find(unknown: Lineage, places: &[&dyn Storage]) -> Lineage {
    let mut lineage = unknown;
    let needed = lineage.members.iter().filter(|member| member.is_needed);
    let named: Vec<BoxFuture<'_, _>> =
        needed.map(|member| by_name(&member.ancestor, places).boxed()).collect();
    let named: Vec<_> = stream::iter(named).buffered(ANCESTORS_AT_ONCE).collect().await;
    let mut by_uuid = Vec::new();
    let needed = lineage.members.iter_mut().filter(|member| member.is_needed);
    for (member, named) in needed.zip(named) {
        let image = match named {
            Ok(image) => Ok(image),
            Err(problem) => by_identity(&member.ancestor, places, &mut by_uuid, problem).await,
        };
        member.image = image.map(Arc::new);
    }
    lineage
}

/// The image of the recorded name, if it is the one. What stands under that name and cannot be used
/// is a better answer than "not found", unless it is another image.
async fn by_name(ancestor: &Ancestor, places: &[&dyn Storage]) -> Result<Image, AncestorProblem> {
    let mut first = AncestorProblem::Missing;
    for place in places {
        match try_open(ancestor, *place, &ancestor.name).await {
            Ok(image) => return Ok(image),
            Err(problem) => first = first.or(problem),
        }
    }
    Err(first)
}

/// Names by uuid, for each place that was listed.
type Names = Vec<Result<BTreeMap<ImageUuid, Vec<String>>, AncestorProblem>>;

/// The image by its uuid: copies of it may be damaged, or recovered from a damaged one, so that each
/// is tried. `first` is what was wrong with the one of the recorded name.
async fn by_identity(
    ancestor: &Ancestor,
    places: &[&dyn Storage],
    names: &mut Names,
    first: AncestorProblem,
) -> Result<Image, AncestorProblem> {
    let mut first = first;
    for (i, place) in places.iter().enumerate() {
        if names.len() <= i {
            names.push(list(*place).await.map_err(|error| AncestorProblem::Unreadable(error.to_string())));
        }
        let of_uuid = match &names[i] {
            Ok(names) => names.get(&ancestor.uuid).map_or(&[][..], Vec::as_slice),
            Err(problem) => {
                first = first.or(problem.clone());
                continue;
            }
        };
        for name in of_uuid.iter().filter(|name| **name != ancestor.name) {
            match try_open(ancestor, *place, name).await {
                Ok(image) => return Ok(image),
                Err(problem) => first = first.or(problem),
            }
        }
    }
    Err(first)
}

/// Opens the object `name` of `place` if it is `ancestor`; otherwise says what it is instead.
async fn try_open(ancestor: &Ancestor, place: &dyn Storage, name: &str) -> Result<Image, AncestorProblem> {
    let reader = place.open(name).await.map_err(|error| match error.kind {
        StorageErrorKind::NotFound | StorageErrorKind::InvalidName => AncestorProblem::Missing,
        _ => AncestorProblem::Unreadable(error.to_string()),
    })?;
    if uuid_of(&*reader).await?.is_some_and(|uuid| uuid != ancestor.uuid) {
        return Err(AncestorProblem::Missing);
    }
    let image = Image::open(reader).await?;
    if image.footer_check() == ancestor.footer_check { Ok(image) } else { Err(AncestorProblem::Changed) }
}

/// The images of a storage by uuid. What cannot be read is none of ours.
async fn list(place: &dyn Storage) -> Result<BTreeMap<ImageUuid, Vec<String>>, StorageError> {
    let mut names = BTreeMap::<ImageUuid, Vec<String>>::new();
    for object in place.list().await? {
        if let Ok(reader) = place.open(&object.name).await
            && let Ok(Some(uuid)) = uuid_of(&*reader).await
        {
            names.entry(uuid).or_default().push(object.name);
        }
    }
    Ok(names)
}

/// The uuid of an image, or `None` if it is none; all but its superblock may be damaged.
///
/// # Errors
/// The storage's.
pub async fn uuid_of(reader: &dyn ObjectReader) -> Result<Option<ImageUuid>, EngineError> {
    Ok(superblock_of(reader).await?.map(|superblock| superblock.uuid))
}

async fn superblock_of(reader: &dyn ObjectReader) -> Result<Option<Superblock>, EngineError> {
    if reader.len() < BLOCK as u64 {
        return Ok(None);
    }
    let head = reader.read_at(0, BLOCK, Buffer::unpooled(vec![0; BLOCK])).await?.into_bytes()?;
    Ok(Superblock::parse(&head).ok())
}

/// The images in `place` that name `uuid` among their ancestors and have pages that rest on it. One
/// whose index is damaged may have such pages: it can be recovered, and is of no use then without
/// its ancestors.
///
/// # Errors
/// The storage's.
pub async fn descendants(
    place: &dyn Storage,
    uuid: &ImageUuid,
) -> Result<Vec<(String, ImageUuid)>, EngineError> {
    let mut found = Vec::new();
    for object in place.list().await? {
        let reader = match place.open(&object.name).await {
            Ok(reader) => reader,
            // Removed by somebody else meanwhile.
            Err(error) if error.kind == StorageErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(Superblock { uuid: own, ancestors, .. }) = superblock_of(&*reader).await? else { continue };
        let Some(row) = ancestors.iter().position(|ancestor| ancestor.uuid == *uuid) else { continue };
        let is_needed = match Image::open(reader).await {
            Ok(image) => image.footer().totals.rests_on.get(row).is_some_and(|&pages| pages > 0),
            Err(_) => true,
        };
        if is_needed {
            found.push((object.name, own));
        }
    }
    Ok(found)
}
