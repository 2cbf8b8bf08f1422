//! Ancestors' pages found in their page tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::lineage::Lineage;
use super::{EngineError, Image};
use crate::format::FormatError;
use crate::format::entry::Entry;
use crate::format::reference::{Place, Reference};
use crate::format::segment::PageTable;
use crate::segment::Likeness;

/// Page tables loaded at once for one batch.
const TABLES_AT_ONCE: usize = 16;

/// A page of an ancestor that page `index` of a batch rests on, or may rest on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) index: usize,
    /// The batch's page, for references to the same pfn.
    pub(super) pfn: u64,
    pub(super) reference: Reference,
}

/// A wanted page, found in its ancestor's table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    pub(super) index: usize,
    /// The ancestor that has it, under the lineage's number.
    pub(super) reference: Reference,
    pub(super) entry: Entry,
    pub(super) likeness: Likeness,
    /// Its pfn there.
    pub(super) pfn: u64,
    /// Offset in the ancestor and length, in bytes.
    pub(super) extent: Option<(u64, usize)>,
}

/// Locates all of `wanted`.
///
/// # Errors
/// Damage if an ancestor does not have one of them; those of reading page tables.
pub(super) async fn locate(lineage: &Lineage, wanted: &[Wanted]) -> Result<Vec<Located>, EngineError> {
    let mut located = Vec::with_capacity(wanted.len());
    let mut finder = Finder::new(lineage);
    finder.load(wanted).await?;
    for wanted in wanted {
        let found = finder.find(*wanted).await?.ok_or_else(|| no_such_page(lineage, *wanted))?;
        located.push(found);
    }
    Ok(located)
}

/// As [`locate`]; where a reference stands there, the page that it names. `None` for pages that
/// the ancestor does not have, or that are in no image of the lineage.
///
/// # Errors
/// Those of reading page tables.
pub(super) async fn follow(
    lineage: &Lineage,
    wanted: &[Wanted],
) -> Result<Vec<Option<Located>>, EngineError> {
    let mut finder = Finder::new(lineage);
    finder.load(wanted).await?;
    let (mut located, mut further) = (Vec::with_capacity(wanted.len()), Vec::new());
    for (at, wanted) in wanted.iter().enumerate() {
        let found = finder.find(*wanted).await?;
        let reference = found.and_then(|found| Reference::of_entry(found.entry));
        if let Some(reference) = reference {
            let reference = translate(lineage, wanted.reference.ancestor, reference)?;
            further.extend(reference.map(|reference| (at, Wanted { reference, ..*wanted })));
        }
        located.push(found.filter(|_| reference.is_none()));
    }
    finder.load(&further.iter().map(|(_, wanted)| *wanted).collect::<Vec<_>>()).await?;
    for (at, wanted) in further {
        located[at] = finder.find(wanted).await?;
    }
    Ok(located)
}

/// Says of damage in which image it is.
fn of_ancestor(lineage: &Lineage, number: u8, error: EngineError) -> EngineError {
    match error {
        EngineError::Format(FormatError::Damaged { offset, part, problem }) => {
            FormatError::AncestorDamaged { ancestor: lineage.name(number), offset, part, problem }.into()
        }
        other => other,
    }
}

fn no_such_page(lineage: &Lineage, wanted: Wanted) -> EngineError {
    let name = lineage.name(wanted.reference.ancestor);
    let part = format!("page {}", wanted.pfn);
    FormatError::damaged(0, part, format!("it rests on a page that {name} does not have")).into()
}

/// Finds pages in their tables; pages in order are found without searching.
pub(super) struct Finder<'a> {
    lineage: &'a Lineage,
    /// For each ancestor the page found last.
    last: BTreeMap<u8, (Arc<PageTable>, usize)>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(lineage: &'a Lineage) -> Self {
        Self { lineage, last: BTreeMap::new() }
    }

    /// Loads the tables that `wanted` will need, many at once; one page's is loaded as well when it is found.
    pub(super) async fn load(&self, wanted: &[Wanted]) -> Result<(), EngineError> {
        if wanted.len() < 2 {
            return Ok(());
        }
        let mut segments = BTreeSet::new();
        for Wanted { pfn, reference: Reference { ancestor, place }, .. } in wanted {
            let segment = match place {
                Place::At { segment, .. } => Some(*segment as usize),
                Place::SamePfn => self.lineage.member(*ancestor)?.index().likeliest(*pfn),
            };
            segments.extend(segment.map(|segment| (*ancestor, segment)));
        }
        let loads = segments.into_iter().map(|(ancestor, segment)| async move {
            let image = self.lineage.member(ancestor)?;
            let table = image.index().table(image, segment).await;
            table.map(|_| ()).map_err(|error| of_ancestor(self.lineage, ancestor, error))
        });
        stream::iter(loads).buffer_unordered(TABLES_AT_ONCE).try_collect().await
    }

    /// Where the page that `wanted` names stands; `None` if the ancestor has no such page.
    pub(super) async fn find(&mut self, wanted: Wanted) -> Result<Option<Located>, EngineError> {
        let found = self.find_in_ancestor(wanted).await;
        found.map_err(|error| of_ancestor(self.lineage, wanted.reference.ancestor, error))
    }

    async fn find_in_ancestor(&mut self, wanted: Wanted) -> Result<Option<Located>, EngineError> {
        let Reference { ancestor, place } = wanted.reference;
        let image = self.lineage.member(ancestor)?;
        let found = match place {
            Place::SamePfn => self.by_pfn(ancestor, image, wanted.pfn).await?,
            Place::At { segment, index } => {
                let table = image.index().table(image, segment as usize).await?;
                Some((table, usize::from(index))).filter(|(table, index)| *index < table.len())
            }
        };
        let Some((table, at)) = found else { return Ok(None) };
        let entry = table.entry(at);
        let in_image = |(at, len)| (table.offset + (table.header.table_end + at) as u64, len);
        Ok(Some(Located {
            index: wanted.index,
            reference: wanted.reference,
            entry,
            likeness: Likeness::Changed,
            pfn: table.pfn(at).unwrap_or(wanted.pfn),
            extent: entry.extent().map(in_image),
        }))
    }

    async fn by_pfn(
        &mut self,
        ancestor: u8,
        image: &Image,
        pfn: u64,
    ) -> Result<Option<(Arc<PageTable>, usize)>, EngineError> {
        if let Some((table, at)) = self.last.get_mut(&ancestor)
            && table.pfn(*at + 1) == Some(pfn)
        {
            *at += 1;
            return Ok(Some((Arc::clone(table), *at)));
        }
        let found = image.index().find(image, pfn).await?;
        if let Some(found) = &found {
            self.last.insert(ancestor, found.clone());
        }
        Ok(found)
    }
}

/// A reference that ancestor `of` makes, in the lineage's numbers; `None` for an image that is
/// not in the lineage.
pub(super) fn translate(
    lineage: &Lineage,
    of: u8,
    reference: Reference,
) -> Result<Option<Reference>, EngineError> {
    let ancestors = &lineage.member(of)?.superblock().ancestors;
    let ancestor = ancestors.get(usize::from(reference.ancestor));
    let number = ancestor.and_then(|ancestor| lineage.number_of(&ancestor.uuid));
    Ok(number.map(|ancestor| Reference { ancestor, place: reference.place }))
}
