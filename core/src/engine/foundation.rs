//! What a save may rest on: a parent, a template, or both; and for each batch the pages of
//! theirs that are worth reading.
//!
//! Only page tables are read at first. Their content checks tell which pages have surely
//! changed; the others' stored bytes are read to be compared. Pages that changed are read as
//! well if they are few, or if a sample says that differences to them will be short.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::gather::{Cost, Plan, Room};
use super::lineage::{Lineage, Member};
use super::locate::{Located, Wanted, follow, locate};
use super::{Engine, EngineError, Image};
use crate::buffer::Payload;
use crate::compute::{self, Work};
use crate::ecbc::{PageDecoder, uniform};
use crate::format::ImageUuid;
use crate::format::ancestor::{ANCESTORS_MAX, Ancestor, Role};
use crate::format::entry::{ELSEWHERE_SEGMENTS, Entry, content_check};
use crate::format::reference::{Place, Reference};
use crate::format::segment::Digest;
use crate::page_set::PageSet;
use crate::segment::{Base, Bases, Costs, Likeness, words_alike};
use crate::tape::{Batch, Pfns};
use crate::template::KnownPages;
use crate::{PAGE_SIZE, Page};

/// One changed page in so many is looked at before the others are read.
const SAMPLE: usize = 32;
/// Differences are tried without a sample if at most one in so many of the pages that must be
/// looked at has changed.
const FEW: usize = 4;

/// An image that a save rests on, and under which name it will be found beside the new image.
#[derive(Debug)]
pub struct Relative {
    /// The name recorded in the new image.
    pub name: String,
    /// The image, its ancestors found.
    pub image: Image,
}

/// What a save rests on.
#[derive(Debug)]
pub struct Foundation {
    lineage: Lineage,
    parent: Option<u8>,
    template: Option<(u8, Arc<KnownPages>)>,
    /// Pages of which the caller says that the parent has them as they are.
    unchanged: Arc<PageSet>,
    trouble: Mutex<Option<String>>,
    /// A storage has failed: it is not asked again while the guest waits.
    is_lost: AtomicBool,
}

impl Foundation {
    /// A parent (whose pages of the same pfn are compared), a template (whose pages are found
    /// by contents), or both.
    ///
    /// # Errors
    /// [`EngineError::Ancestor`] and [`EngineError::Incomplete`] when parent or template lack parts.
    pub fn new(
        parent: Option<Relative>,
        template: Option<(Relative, KnownPages)>,
    ) -> Result<Self, EngineError> {
        let mut lineage = Lineage::default();
        let mut further = Vec::new();
        let has_parent = parent.is_some();
        if let Some(Relative { name, image }) = parent {
            image.check_complete()?;
            further = still_needed(&image);
            lineage.members.push(member(Role::Parent, name, image));
        }
        let template = match template {
            None => None,
            Some((Relative { name, image }, known)) => {
                image.check_complete()?;
                let number = lineage.number_of(&image.superblock().uuid);
                let number = number.unwrap_or_else(|| {
                    lineage.members.push(member(Role::Template, name, image));
                    u8::from(has_parent)
                });
                Some((number, Arc::new(known)))
            }
        };
        for member in further {
            if lineage.members.len() < ANCESTORS_MAX && lineage.number_of(&member.ancestor.uuid).is_none() {
                lineage.members.push(member);
            }
        }
        let parent = if has_parent { Some(0) } else { None };
        Ok(Self {
            lineage,
            parent,
            template,
            unchanged: Arc::default(),
            trouble: Mutex::default(),
            is_lost: AtomicBool::new(false),
        })
    }

    /// With pages that the caller knows to be as they are in the parent (it watched the guest
    /// since): where their checks agree, too, the parent's are not read to be compared.
    #[must_use]
    pub fn with_unchanged(self, unchanged: Arc<PageSet>) -> Self {
        Self { unchanged, ..self }
    }

    /// The new image's table of ancestors.
    pub(super) fn ancestors(&self) -> Vec<Ancestor> {
        self.lineage.members.iter().map(|member| member.ancestor.clone()).collect()
    }

    /// Whether the image `uuid` is among the ancestors.
    pub(super) fn has(&self, uuid: &ImageUuid) -> bool {
        self.lineage.number_of(uuid).is_some()
    }

    /// Why some pages were saved as if there were nothing to rest on.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the first reason why a page was saved in full.
    pub(super) fn note(&self, problem: String) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.get_or_insert(problem);
    }

    /// Notes why the pages of a batch are saved in full. Damage is of some pages; a storage that
    /// fails will fail for all.
    fn note_error(&self, error: &EngineError) {
        if !error.is_damage() {
            self.is_lost.store(true, Ordering::Relaxed);
        }
        self.note(error.to_string());
    }

    /// What the pages of `batch` may rest on. Ancestors that cannot be read cost ratio only.
    ///
    /// # Errors
    /// The memory budget's and the worker pool's.
    pub(super) async fn bases(&self, engine: &Engine, batch: Batch) -> Result<(Batch, Bases), EngineError> {
        let located = match self.locate(&batch).await {
            Ok(located) => located,
            Err(error) => {
                self.note_error(&error);
                vec![None; batch.pfns.count()]
            }
        };
        if self.is_lost.load(Ordering::Relaxed) {
            return Ok((batch, Bases::default()));
        }
        let digest = self.digest(&batch).await;
        let (batch, survey) = self.survey(engine, batch, located, digest).await?;
        let (batch, read) = survey.read(self, engine, batch).await?;
        match read {
            Ok(bases) => Ok((batch, bases)),
            Err(error @ (EngineError::Compute(_) | EngineError::Budget(_) | EngineError::NotBytes(_))) => {
                Err(error)
            }
            Err(error) => {
                self.note_error(&error);
                Ok((batch, Bases::default()))
            }
        }
    }

    /// For each page of `batch` the parent's page of that pfn, in whichever image holds it.
    async fn locate(&self, batch: &Batch) -> Result<Vec<Option<Located>>, EngineError> {
        let parent = self.parent.filter(|_| !self.is_lost.load(Ordering::Relaxed));
        let Some(parent) = parent else { return Ok(vec![None; batch.pfns.count()]) };
        let reference = Reference { ancestor: parent, place: Place::SamePfn };
        let pages = batch.pfns.iter().enumerate();
        let wanted: Vec<Wanted> = pages.map(|(index, pfn)| Wanted { index, pfn, reference }).collect();
        follow(&self.lineage, &wanted).await
    }

    /// The digest of the parent's pages of the same pfns as `batch`, if they are one segment there.
    /// Pages that are found in the template leave out to read the parent's.
    async fn digest(&self, batch: &Batch) -> Option<Digest> {
        let parent = self.parent.filter(|_| self.template.is_none())?;
        let image = self.lineage.member(parent).ok()?;
        let segment = image.index().likeliest(batch.pfns.get(0)?)?;
        let table = image.index().table(image, segment).await.ok()?;
        table.digest.filter(|_| table.pfns == batch.pfns)
    }

    /// Tells from checks and hashes what each page is worth reading for.
    async fn survey(
        &self,
        engine: &Engine,
        batch: Batch,
        located: Vec<Option<Located>>,
        digest: Option<Digest>,
    ) -> Result<(Batch, Survey), EngineError> {
        let (template, unchanged) = (self.template.clone(), Arc::clone(&self.unchanged));
        let surveyed = compute::run(&*engine.compute, move || {
            let vouched = |located: &Located| is_vouched(located, &batch.pfns, &unchanged);
            let survey =
                batch.pages.bytes().map(|pages| Survey::of(pages, located, template.as_ref(), &vouched));
            let survey = survey.map(|survey| survey.with_digest(digest));
            ((batch, survey), Work::Other)
        });
        let (batch, survey) = surveyed.await?;
        Ok((batch, survey?))
    }
}

fn member(role: Role, name: String, image: Image) -> Member {
    let ancestor = Ancestor { uuid: image.superblock().uuid, footer_check: image.footer_check(), role, name };
    Member { ancestor, is_needed: true, image: Ok(Arc::new(image)) }
}

/// The parent's ancestors that pages of it rest on, the most used first.
fn still_needed(parent: &Image) -> Vec<Member> {
    let used = parent.footer().totals.rests_on;
    let mut members: Vec<(u64, Member)> = parent
        .lineage()
        .members
        .iter()
        .zip(used)
        .filter(|(_, used)| *used > 0)
        .map(|(member, used)| {
            let mut member = member.clone();
            if member.ancestor.role == Role::Parent {
                member.ancestor.role = Role::Ancestor;
            }
            (used, member)
        })
        .collect();
    members.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
    members.into_iter().map(|(_, member)| member).collect()
}

/// What is worth reading for a batch.
#[derive(Default)]
struct Survey {
    /// Pages that stand in the template, or in the parent, for certain.
    certain: Vec<(usize, Reference)>,
    /// Pages that may be the same: to be compared.
    compare: Vec<Located>,
    /// Pages that changed: to be coded as differences, if that pays.
    changed: Vec<Located>,
    /// Pages like one of the template.
    alike: Vec<(usize, Reference)>,
    /// Pages that changed and get no difference: those that are one word all over now and were not, and
    /// those that were one of a unit's. Only a digest wants to know what they were.
    outdated: Vec<Located>,
    /// Of those to be compared, how many are not one word all over.
    probable: usize,
    /// Pages of which the parent's contents cannot be known.
    unknown: usize,
    /// Pages that are not one word all over.
    telling: usize,
    /// The checks of pages that were compared with the parent's, by index.
    checks: Vec<Option<u32>>,
    /// Of the parent's pages.
    digest: Option<Digest>,
}

impl Survey {
    fn of(
        pages: &[u8],
        located: Vec<Option<Located>>,
        template: Option<&(u8, Arc<KnownPages>)>,
        vouched: &dyn Fn(&Located) -> bool,
    ) -> Self {
        let (arrays, _) = pages.as_chunks::<PAGE_SIZE>();
        let mut survey = Self { checks: vec![None; arrays.len()], ..Self::default() };
        for ((index, page), located) in arrays.iter().enumerate().zip(located) {
            let is_uniform = uniform(page).is_some();
            survey.telling += usize::from(!is_uniform);
            survey.unknown += usize::from(!located.as_ref().is_some_and(may_be_known));
            match located {
                Some(located) if is_uniform => {
                    // To a page with bytes of its own it is nothing; others need no reading.
                    if matches!(located.entry, Entry::Zero | Entry::Fill(_)) {
                        survey.compare.push(located);
                    } else {
                        survey.outdated.push(located);
                    }
                }
                Some(mut located) if located.entry.check() == survey.check(index, page) => {
                    if vouched(&located) {
                        survey.certain.push((index, located.reference));
                    } else {
                        located.likeness = Likeness::Probable;
                        survey.probable += 1;
                        survey.compare.push(located);
                    }
                }
                located if !is_uniform => survey.add_changed(index, page, located, template),
                _ => {}
            }
        }
        survey
    }

    fn check(&mut self, index: usize, page: &Page) -> Option<u32> {
        self.checks[index] = Some(content_check(page));
        self.checks[index]
    }

    /// Keeps the digest if it is of use: the pages that must be decoded for it are fewer than those that
    /// need not be.
    fn with_digest(mut self, digest: Option<Digest>) -> Self {
        let decoded = self.changed.len() + self.outdated.len();
        self.digest = digest.filter(|_| self.unknown == 0 && decoded < self.probable);
        self
    }

    fn add_changed(
        &mut self,
        index: usize,
        page: &Page,
        located: Option<Located>,
        template: Option<&(u8, Arc<KnownPages>)>,
    ) {
        let in_template = |place: Option<Place>| {
            let place = place.filter(
                |place| !matches!(place, Place::At { segment, .. } if *segment >= ELSEWHERE_SEGMENTS),
            );
            template.zip(place).map(|(&(ancestor, _), place)| Reference { ancestor, place })
        };
        let known = template.map(|(_, known)| known);
        if let Some(reference) = in_template(known.and_then(|known| known.find(page))) {
            self.certain.push((index, reference));
        } else if located.as_ref().is_some_and(may_be_base) {
            self.changed.extend(located);
        } else if let Some(reference) = in_template(known.and_then(|known| known.find_alike(page))) {
            self.alike.push((index, reference));
        } else {
            self.outdated.extend(located.filter(|located| located.entry.extent().is_some()));
        }
    }

    /// Reads what is worth reading. The inner result is the ancestors'.
    async fn read(
        mut self,
        foundation: &Foundation,
        engine: &Engine,
        batch: Batch,
    ) -> Result<(Batch, Result<Bases, EngineError>), EngineError> {
        let lineage = &foundation.lineage;
        let alike = match locate_alike(lineage, &self.alike).await {
            Ok(alike) => alike,
            Err(error) => return Ok((batch, Err(error))),
        };
        let changed = std::mem::take(&mut self.changed);
        let extent = Extent { changed: changed.len(), telling: self.telling };
        let few = changed.len() * FEW <= self.telling;
        let (first, rest): (Vec<_>, Vec<_>) =
            changed.into_iter().enumerate().partition(|(i, _)| few || i % SAMPLE == 0);
        let sample: Vec<usize> = first.iter().map(|(_, located)| located.index).collect();
        let outdated = if self.digest.is_some() { self.outdated } else { Vec::new() };
        let first = first.into_iter().map(|(_, located)| located);
        let first = first.chain(self.compare).chain(alike).chain(outdated).collect();
        let rest: Vec<Located> = rest.into_iter().map(|(_, located)| located).collect();
        let (first, rest) = match (Plan::of(lineage, first), Plan::of(lineage, rest)) {
            (Ok(first), Ok(rest)) => (first, rest),
            (Err(error), _) | (_, Err(error)) => return Ok((batch, Err(error))),
        };
        let Room { slot, reservation } = first.room(&engine.encoded, rest.bytes()).await?;
        let mut bases = Bases {
            reservation: Some(reservation),
            digest: self.digest,
            checks: self.checks,
            ..Bases::default()
        };
        let mut cost = Cost::default();
        if let Err(error) = first.read(lineage, slot, &mut bases, &mut cost).await {
            return Ok((batch, Err(error)));
        }
        let mut batch = batch;
        if !rest.is_empty() {
            let (back, pays);
            (back, bases, pays) = differences_pay(engine, batch, bases, sample, extent).await?;
            batch = back;
            if !pays {
                bases.digest = None;
            }
            if pays && let Err(error) = rest.read(lineage, None, &mut bases, &mut cost).await {
                return Ok((batch, Err(error)));
            }
        }
        for (index, reference) in self.certain {
            if bases.pages.len() <= index {
                bases.pages.resize(index + 1, None);
            }
            bases.pages[index] =
                Some(Base { reference, likeness: Likeness::Certain, page: None, under: None });
        }
        Ok((batch, Ok(bases)))
    }
}

/// Whether a difference to this page may be made: a page of a unit is too dear to read for one.
fn may_be_base(located: &Located) -> bool {
    located.entry.extent().is_some() && !matches!(located.entry, Entry::Unit { .. })
}

/// Whether what the page holds can be found out.
fn may_be_known(located: &Located) -> bool {
    located.entry.extent().is_some() || matches!(located.entry, Entry::Zero | Entry::Fill(_))
}

/// Whether the caller knows this page to be the parent's. Differences are read all the same:
/// what they rest on is counted then.
fn is_vouched(located: &Located, pfns: &Pfns, unchanged: &PageSet) -> bool {
    let whole = matches!(located.entry, Entry::Stored { .. } | Entry::Blob { .. } | Entry::Unit { .. });
    whole && pfns.get(located.index).is_some_and(|pfn| unchanged.contains(pfn))
}

async fn locate_alike(lineage: &Lineage, alike: &[(usize, Reference)]) -> Result<Vec<Located>, EngineError> {
    let wanted = alike.iter().map(|&(index, reference)| Wanted { index, pfn: 0, reference });
    let mut located = locate(lineage, &wanted.collect::<Vec<_>>()).await?;
    // A page of the template that rests on another one is no base.
    located.retain(|found| matches!(found.entry, Entry::Stored { .. } | Entry::Blob { .. }));
    Ok(located)
}

/// How many pages of a batch changed, and of how many.
#[derive(Clone, Copy)]
struct Extent {
    changed: usize,
    telling: usize,
}

impl Extent {
    /// Whether the pages take no longer than a plain save if all that changed are tried as differences,
    /// where `alike` of their `words` stand at the same places in their bases.
    fn pays(self, costs: Costs, alike: usize, words: usize) -> bool {
        let Self { changed, telling } = self;
        let Costs { same, alike: least, unlike } = costs;
        let difference = least * words + unlike * words.saturating_sub(alike);
        changed * difference + telling.saturating_sub(changed) * same * words <= 100 * telling * words
    }
}

/// Whether the sampled pages are so like their bases that differences pay.
async fn differences_pay(
    engine: &Engine,
    batch: Batch,
    bases: Bases,
    sample: Vec<usize>,
    extent: Extent,
) -> Result<(Batch, Bases, bool), EngineError> {
    let costs = engine.coder.costs();
    let looked = compute::run(&*engine.compute, move || {
        let pays = match &batch.pages {
            Payload::Bytes(pages) => {
                let mut decoder = PageDecoder::new();
                let likenesses: Vec<_> =
                    sample.iter().map(|&index| likeness(&mut decoder, pages, &bases, index)).collect();
                let worth = likenesses.iter().filter(|(same, words)| 8 * same >= *words).count();
                let sum = likenesses.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                4 * worth >= sample.len() && extent.pays(costs, sum.0, sum.1)
            }
            Payload::Modelled { .. } => false,
        };
        ((batch, bases, pays), Work::Other)
    });
    Ok(looked.await?)
}

/// How many words of a page stand at the same places in its base, and of how many.
fn likeness(decoder: &mut PageDecoder, pages: &[u8], bases: &Bases, index: usize) -> (usize, usize) {
    let (arrays, _) = pages.as_chunks::<PAGE_SIZE>();
    let (Some(page), Some(base)) = (arrays.get(index), bases.get(index)) else { return (0, 1) };
    let mut contents = [0; PAGE_SIZE];
    if bases.decode(decoder, base, &mut contents).is_err() {
        return (0, 1);
    }
    words_alike(page, &contents)
}

#[cfg(test)]
mod test {
    use super::*;

    fn located(index: usize, entry: Entry) -> Located {
        let reference = Reference { ancestor: 0, place: Place::SamePfn };
        let extent = entry.extent().map(|(at, len)| (at as u64, len));
        Located { index, reference, entry, likeness: Likeness::Changed, pfn: index as u64, extent }
    }

    /// Pages of a unit: two stayed, one changed, one is zeros now.
    #[test]
    fn changed_pages_of_units_are_read_for_the_digest() {
        let mut pages = vec![7; 4 * PAGE_SIZE];
        pages.iter_mut().step_by(9).for_each(|byte| *byte = 1);
        let (arrays, _) = pages.as_chunks::<PAGE_SIZE>();
        let checks: Vec<u32> = arrays.iter().map(|page| content_check(page)).collect();
        pages[2 * PAGE_SIZE] ^= 4;
        pages[3 * PAGE_SIZE..].fill(0);
        let unit = |index: u8| Entry::Unit { index, reach: 256, at: 0, check: checks[usize::from(index)] };
        let mut parent: Vec<_> = (0..4).map(|i| Some(located(usize::from(i), unit(i)))).collect();
        let digest = Some(Digest { key: [1; 16], sum: [2; 16] });
        let survey_of = |parent| Survey::of(&pages, parent, None, &|_| false).with_digest(digest);

        parent[3] = Some(located(3, Entry::Zero));
        let survey = survey_of(parent.clone());
        assert!(survey.digest.is_some() && survey.changed.is_empty());
        assert_eq!(survey.outdated.iter().map(|page| page.index).collect::<Vec<_>>(), [2]);

        parent[3] = Some(located(3, unit(3)));
        let survey = survey_of(parent.clone());
        assert!(survey.digest.is_none(), "as many are decoded for it as are not");
        assert_eq!(survey.outdated.iter().map(|page| page.index).collect::<Vec<_>>(), [2, 3]);

        parent[3] = None;
        assert!(survey_of(parent).digest.is_none(), "nobody knows what the last one was");
    }
}
