//! An image opened for reading: its index in memory, its pages where they are.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use super::lineage::{self, Lineage};
use super::page_index::PageIndex;
use super::{Engine, EngineError};
use crate::buffer::{Buffer, Payload};
use crate::format::directory::{self, DirectoryEntry, ENTRY_LEN};
use crate::format::footer::Footer;
use crate::format::superblock::Superblock;
use crate::format::{BLOCK, FormatError};
use crate::storage::{ObjectReader, Storage};

/// Superblock, footer and directory of an image, checked, and the object they came from.
pub struct Image {
    reader: Box<dyn ObjectReader>,
    superblock: Superblock,
    footer: Footer,
    segments: Vec<DirectoryEntry>,
    frames: Vec<DirectoryEntry>,
    open_reads: OpenReads,
    footer_check: u64,
    index: PageIndex,
    lineage: Lineage,
}

/// What opening cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenReads {
    /// Storage reads.
    pub reads: u64,
    /// Bytes read.
    pub bytes: u64,
}

impl Image {
    /// Reads and checks the index of an image: superblock, footer, directory.
    ///
    /// # Errors
    /// [`EngineError::Format`] when it is no image, damaged, or too new.
    pub async fn open(reader: Box<dyn ObjectReader>) -> Result<Self, EngineError> {
        let mut cost = OpenReads::default();
        let len = reader.len();
        if len < BLOCK as u64 {
            return Err(FormatError::NotAnImage(format!("it has only {len} bytes")).into());
        }
        let head = read(&*reader, 0, BLOCK, &mut cost).await?;
        let superblock = Superblock::parse(&head)?;
        if len < 2 * BLOCK as u64 || !len.is_multiple_of(BLOCK as u64) {
            let problem = format!("an image cannot have {len} bytes: it was cut off (try recover-image)");
            return Err(FormatError::damaged(len, "the footer", problem).into());
        }
        let footer_offset = len - BLOCK as u64;
        let tail = read(&*reader, footer_offset, BLOCK, &mut cost).await?;
        let footer = Footer::parse(&tail, footer_offset)?;
        if footer.uuid != superblock.uuid || footer.superblock_check != xxh3_64(&head) {
            let problem = "it belongs to another superblock";
            return Err(FormatError::damaged(footer_offset, "the footer", problem).into());
        }
        let directory = read_directory(&*reader, &footer, footer_offset, &mut cost).await?;
        let (segments, frames) = directory;
        let index = PageIndex::new(&segments);
        let lineage = Lineage::unknown(&superblock.ancestors, &footer.totals.rests_on);
        let footer_check = Footer::check_of(&tail);
        Ok(Self {
            reader,
            superblock,
            footer,
            segments,
            frames,
            open_reads: cost,
            footer_check,
            index,
            lineage,
        })
    }

    /// Opens the image `name` of `storage` and its ancestors: beside it, and in `more` places.
    ///
    /// # Errors
    /// As [`open`](Self::open), and the storage's. Missing ancestors are no error yet: see
    /// [`check_ancestors`](Self::check_ancestors).
    pub async fn open_with_ancestors(
        storage: &dyn Storage,
        name: &str,
        more: &[&dyn Storage],
    ) -> Result<Self, EngineError> {
        let mut image = Self::open(storage.open(name).await?).await?;
        let places: Vec<&dyn Storage> = std::iter::once(storage).chain(more.iter().copied()).collect();
        image.find_ancestors(&places).await;
        Ok(image)
    }

    /// Looks for the ancestors that its pages rest on in `places`: by recorded name first, then by uuid.
    pub async fn find_ancestors(&mut self, places: &[&dyn Storage]) {
        let unknown = Lineage::unknown(&self.superblock.ancestors, &self.footer.totals.rests_on);
        self.lineage = lineage::find(unknown, places).await;
    }

    /// Whether all ancestors that pages rest on are at hand and are those that pages were compared with.
    ///
    /// # Errors
    /// [`EngineError::Ancestor`] for the first that is not.
    pub fn check_ancestors(&self) -> Result<(), EngineError> {
        self.lineage.check()
    }

    /// What its descendants know it by, beside its uuid: the hash in its footer.
    pub fn footer_check(&self) -> u64 {
        self.footer_check
    }

    /// How many of its segments may be under way at once: where pages rest on ancestors', one
    /// of them must always find room for what it rests on.
    pub(super) fn segments_at_once(&self, engine: &Engine) -> usize {
        if self.superblock.ancestors.is_empty() { engine.segments_at_once() } else { engine.upon_at_once() }
    }

    pub(super) fn index(&self) -> &PageIndex {
        &self.index
    }

    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// What loading page tables has cost, its ancestors' included.
    pub(super) fn index_cost(&self) -> OpenReads {
        let (own, ancestors) = (self.own_index_cost(), self.lineage.index_cost());
        OpenReads { reads: own.reads + ancestors.reads, bytes: own.bytes + ancestors.bytes }
    }

    pub(super) fn own_index_cost(&self) -> OpenReads {
        let (reads, bytes) = self.index.table_reads();
        OpenReads { reads, bytes }
    }

    /// What it is.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Its totals and flags.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Its page segments in tape order.
    pub fn segments(&self) -> &[DirectoryEntry] {
        &self.segments
    }

    /// Its frame chunks in tape order.
    pub fn frames(&self) -> &[DirectoryEntry] {
        &self.frames
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.reader.len()
    }

    /// Whether it has no bytes (no image has none).
    pub fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// What opening it cost.
    pub fn open_reads(&self) -> OpenReads {
        self.open_reads
    }

    /// Bytes of the directory with its padding.
    pub fn directory_bytes(&self) -> u64 {
        self.len() - BLOCK as u64 - self.footer.directory_offset
    }

    pub(crate) fn reader(&self) -> &dyn ObjectReader {
        &*self.reader
    }

    /// Reads and decompresses a frame chunk: the items of [`crate::format::frame::items`].
    ///
    /// # Errors
    /// Damage, or the storage.
    pub async fn frame_chunk(&self, entry: &DirectoryEntry) -> Result<Vec<u8>, EngineError> {
        let bytes = read(&*self.reader, entry.offset, entry.len(), &mut OpenReads::default()).await?;
        let (header, raw) = crate::format::frame::parse_chunk(&bytes, &self.superblock.uuid, entry.offset)?;
        if header.check != entry.check {
            let problem = "the directory describes another chunk";
            return Err(FormatError::damaged(entry.offset, "a frame chunk", problem).into());
        }
        if bytes[crate::format::frame::padding(&header)].iter().any(|&byte| byte != 0) {
            let problem = "its padding is not zero";
            return Err(FormatError::damaged(entry.offset, "a frame chunk", problem).into());
        }
        Ok(raw)
    }

    /// Whether every part is there, and every ancestor that is needed.
    ///
    /// # Errors
    /// [`EngineError::Incomplete`] for an image recovered from a damaged one, otherwise as
    /// [`check_ancestors`](Self::check_ancestors).
    pub fn check_complete(&self) -> Result<(), EngineError> {
        self.check_ancestors()?;
        let lost = self.segments.iter().filter(|entry| entry.is_lost()).count();
        if self.footer.incomplete || lost > 0 {
            return Err(EngineError::Incomplete(format!(
                "it was recovered from a damaged image; {lost} of at least {} segments are known to be lost; its pages can be extracted, the guest cannot be restored",
                self.segments.len()
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("superblock", &self.superblock)
            .field("footer", &self.footer)
            .finish_non_exhaustive()
    }
}

type Directory = (Vec<DirectoryEntry>, Vec<DirectoryEntry>);

async fn read_directory(
    reader: &dyn ObjectReader,
    footer: &Footer,
    footer_offset: u64,
    cost: &mut OpenReads,
) -> Result<Directory, EngineError> {
    let damaged = |problem: &str| FormatError::damaged(footer_offset, "the footer", problem);
    let (segments, frames) = (footer.segments as usize, footer.frame_chunks as usize);
    let start = footer.directory_offset;
    let len = footer_offset.checked_sub(start).ok_or_else(|| damaged("the directory is beyond it"))?;
    // Every segment takes a block, so the file's length bounds what is allocated here.
    let needed = ((segments + frames) * ENTRY_LEN).next_multiple_of(BLOCK) as u64;
    if len != needed || start / (BLOCK as u64) < (segments + frames) as u64 && !footer.incomplete {
        return Err(damaged("the directory's size makes no sense").into());
    }
    let len = usize::try_from(len).map_err(|_| damaged("the directory is too large"))?;
    let bytes = read(reader, start, len, cost).await?;
    if xxh3_64(&bytes) != footer.directory_check {
        return Err(FormatError::damaged(start, "the directory", "its hash differs").into());
    }
    let mut entries = directory::parse(&bytes, segments + frames, start)?;
    let frames = entries.split_off(segments);
    Ok((entries, frames))
}

/// Reads metadata, outside the memory budget; callers bound `len`.
async fn read(
    reader: &dyn ObjectReader,
    offset: u64,
    len: usize,
    cost: &mut OpenReads,
) -> Result<Buffer, EngineError> {
    cost.reads += 1;
    cost.bytes += len as u64;
    match reader.read_at(offset, len, Buffer::unpooled(vec![0; len])).await? {
        Payload::Bytes(bytes) => Ok(bytes),
        modelled @ Payload::Modelled { .. } => {
            modelled.bytes()?;
            Ok(Buffer::unpooled(Vec::new()))
        }
    }
}
