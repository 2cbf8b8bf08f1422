//! A Xen domain as a guest to be recorded.

use std::io;

use comio_core::PAGE_SIZE;
use comio_core::hypervisor::HypervisorError;
use comio_core::page_set::PageSet;
use rustix::io::Errno;

use super::foreign::ForeignMemory;
use super::interface::{Control, Domain, Kind, refused};
use super::marker::Marker;
use super::p2m::{Place, ReadFrames};
use super::store::Store;
use crate::record::{LiveGuest, Tracking};

/// Guest frames from here to 4 GiB are devices' and the toolstack's, not the guest's memory.
const HOLE: std::ops::Range<u64> = 0xf_0000..0x10_0000;

/// A running domain.
pub struct XenGuest {
    control: Control,
    memory: ForeignMemory,
    marker: Marker,
    domain: Domain,
    name: String,
    page_count: u64,
    /// A PV guest's machine frames by pfn, as of the last look.
    frames: Vec<Option<u64>>,
    /// Which of them are being copied, and where the pages go.
    batch: Vec<u64>,
}

impl XenGuest {
    /// The domain called `text`: a name, a number or a uuid. Nobody else may be recording it.
    ///
    /// # Errors
    /// [`HypervisorError::NotFound`]; [`HypervisorError::Refused`] for one whose memory cannot
    /// be read, with the reason.
    pub fn find(control: Control, text: &str) -> Result<Self, HypervisorError> {
        let failed = |action| {
            move |error: io::Error| HypervisorError::Refused {
                action,
                guest: text.to_owned(),
                problem: error.to_string(),
            }
        };
        let mut store = Store::open().map_err(failed("ask Xen's store for"))?;
        let domains = control.domains().map_err(failed("look for"))?;
        let (domain, name) = find_among(&domains, &mut store, text).map_err(failed("look for"))?;
        if domain.id == 0 {
            return Err(failed("record")(io::Error::other("it is dom0, in which this runs")));
        }
        check_state(&domain, &name)?;
        let marker = Marker::make(domain.id, &domain.uuid).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                failed("record")(io::Error::other("another recording of it is under way"))
            }
            _ => failed("leave a marker of")(error),
        })?;
        let memory = ForeignMemory::open().map_err(failed("map the memory of"))?;
        let mut guest = Self {
            control,
            memory,
            marker,
            domain,
            name,
            page_count: 0,
            frames: Vec::new(),
            batch: Vec::new(),
        };
        guest.page_count = guest.count_pages(&mut store).map_err(failed("find the memory of"))?;
        Ok(guest)
    }

    /// What it is.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn refused(&self, action: &'static str, problem: &io::Error) -> HypervisorError {
        HypervisorError::Refused { action, guest: self.name.clone(), problem: problem.to_string() }
    }

    fn count_pages(&mut self, store: &mut Store) -> io::Result<u64> {
        if self.domain.kind == Kind::Pv {
            if self.control.word_bytes(self.domain.id)? != 8 {
                return Err(io::Error::other("it is a 32-bit PV guest; only 64-bit ones can be recorded"));
            }
            return Ok(self.place_of_frames()?.page_count);
        }
        let highest = self.control.highest_frame(self.domain.id)?;
        if highest >= HOLE.end {
            return Ok(highest + 1);
        }
        let path = format!("/local/domain/{}/memory/static-max", self.domain.id);
        let kib = store.read(&path)?.and_then(|text| text.trim().parse::<u64>().ok());
        let most = kib.map_or(self.domain.pages_max, |kib| kib / 4);
        Ok(most.min(HOLE.start).min(highest + 1))
    }

    fn place_of_frames(&self) -> io::Result<Place> {
        let mut shared_info = vec![0; PAGE_SIZE];
        let there = self.memory.copy(self.domain.id, &[self.domain.shared_info_frame], &mut shared_info)?;
        if there != [true] {
            return Err(io::Error::other("its shared info page cannot be mapped"));
        }
        Place::of(&shared_info)
    }

    /// A PV guest moves its pages about: where they are must be looked up for each step.
    fn look_up_frames(&mut self) -> io::Result<()> {
        if self.domain.kind == Kind::Pv {
            let place = self.place_of_frames()?;
            self.frames = place.frames(&mut Frames { memory: &self.memory, domain: self.domain.id })?;
        }
        Ok(())
    }

    /// The frame to map for a page.
    fn frame(&self, pfn: u64) -> Option<u64> {
        match self.domain.kind {
            Kind::Pv => usize::try_from(pfn).ok().and_then(|pfn| self.frames.get(pfn).copied().flatten()),
            Kind::Pvh | Kind::Hvm => Some(pfn).filter(|pfn| !HOLE.contains(pfn)),
        }
    }

    fn copy_pages(&mut self, pfns: &[u64], pages: &mut [u8]) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        // Pages that are there, packed to the front first.
        batch.extend(pfns.iter().filter_map(|&pfn| self.frame(pfn)));
        self.memory.copy(self.domain.id, &batch, &mut pages[..batch.len() * PAGE_SIZE])?;
        if batch.len() < pfns.len() {
            let mut from = batch.len();
            for (index, &pfn) in pfns.iter().enumerate().rev() {
                let page = index * PAGE_SIZE..(index + 1) * PAGE_SIZE;
                if self.frame(pfn).is_some() {
                    from -= 1;
                    pages.copy_within(from * PAGE_SIZE..(from + 1) * PAGE_SIZE, page.start);
                } else {
                    pages[page].fill(0);
                }
            }
        }
        self.batch = batch;
        Ok(())
    }
}

/// The one of `domains` that `text` means, and its name.
fn find_among(domains: &[Domain], store: &mut Store, text: &str) -> io::Result<(Domain, String)> {
    let uuid = parse_uuid(text);
    for domain in domains {
        let name = store.read(&format!("/local/domain/{}/name", domain.id))?;
        let named = name.as_deref() == Some(text);
        if named || uuid == Some(domain.uuid) || text.parse() == Ok(domain.id) {
            return Ok((*domain, name.unwrap_or_else(|| domain.id.to_string())));
        }
    }
    Err(io::Error::other("there is no such domain (see xl list)"))
}

/// 32 hexadecimal digits, with or without hyphens.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| is_hex)?;
    Some(number.to_be_bytes())
}

fn check_state(domain: &Domain, name: &str) -> Result<(), HypervisorError> {
    let problem = match domain {
        Domain { dying: true, .. } => "it is being taken down",
        Domain { shutdown: true, .. } => "it has shut down, crashed, or is being saved or migrated",
        _ => return Ok(()),
    };
    Err(HypervisorError::Refused { action: "record", guest: name.to_owned(), problem: problem.to_owned() })
}

/// Machine frames of a domain's page tables.
struct Frames<'a> {
    memory: &'a ForeignMemory,
    domain: u32,
}

impl ReadFrames for Frames<'_> {
    fn read(&mut self, frames: &[u64], pages: &mut [u8]) -> io::Result<()> {
        if self.memory.copy(self.domain, frames, pages)?.iter().all(|there| *there) {
            return Ok(());
        }
        Err(io::Error::other("a page of its table of frames cannot be mapped"))
    }
}

impl LiveGuest for XenGuest {
    fn page_count(&self) -> u64 {
        self.page_count
    }

    fn begin(&mut self) -> Result<Tracking, HypervisorError> {
        self.look_up_frames().map_err(|error| self.refused("find the memory of", &error))?;
        // A device model writes to its guest's memory without the hypervisor's knowing.
        if self.domain.kind == Kind::Hvm {
            return Ok(Tracking::Compare);
        }
        match self.control.begin_dirty(self.domain.id) {
            Ok(()) => Ok(Tracking::Dirty),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                let problem = io::Error::other("its memory is being tracked already: is it being migrated?");
                Err(self.refused("track", &problem))
            }
            Err(_) => Ok(Tracking::Compare),
        }
    }

    fn take_dirty(&mut self) -> Result<PageSet, HypervisorError> {
        self.look_up_frames().map_err(|error| self.refused("find the memory of", &error))?;
        let taken = self.control.take_dirty(self.domain.id, self.page_count);
        taken.map_err(|error| self.refused("tell the dirty pages of", &error))
    }

    fn pause(&mut self) -> Result<(), HypervisorError> {
        self.marker.note(true).map_err(|error| self.refused("mark as paused", &error))?;
        self.control.pause(self.domain.id).map_err(|error| refused("pause", self.domain.id, &error))?;
        // From here on it stands still, and so does its table.
        if let Err(error) = self.look_up_frames() {
            let problem = self.refused("find the memory of", &error);
            self.unpause()?;
            return Err(problem);
        }
        Ok(())
    }

    fn unpause(&mut self) -> Result<(), HypervisorError> {
        let unpaused = self.control.unpause(self.domain.id);
        unpaused.map_err(|error| refused("unpause", self.domain.id, &error))?;
        self.marker.note(false).map_err(|error| self.refused("mark as running", &error))
    }

    fn copy(&mut self, pfns: &[u64], pages: &mut [u8]) -> Result<(), HypervisorError> {
        self.copy_pages(pfns, pages).map_err(|error| self.refused("read the memory of", &error))
    }

    fn check(&mut self) -> Result<(), HypervisorError> {
        let now = self.control.domain(self.domain.id);
        let now = now.map_err(|error| self.refused("look for", &error))?;
        match now.filter(|now| now.uuid == self.domain.uuid) {
            Some(now) => check_state(&now, &self.name),
            None => Err(HypervisorError::NotFound(self.name.clone())),
        }
    }

    fn end(&mut self) -> Result<(), HypervisorError> {
        // Off even where it never came on: that changes nothing. A guest that is gone is not
        // tracked either.
        let ended = self.control.end_dirty(self.domain.id);
        let gone = self.control.domain(self.domain.id).is_ok_and(|domain| domain.is_none());
        let removed = self.marker.remove();
        match ended {
            Err(error) if !gone && self.domain.kind != Kind::Pv && self.domain.kind != Kind::Hvm => {
                Err(self.refused("end the tracking of", &error))
            }
            _ => removed.map_err(|error| self.refused("remove the marker of", &error)),
        }
    }
}

impl std::fmt::Debug for XenGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XenGuest")
            .field("name", &self.name)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn uuids_are_read_with_and_without_hyphens() {
        let uuid = Some([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(parse_uuid("01234567-89ab-cdef-0001-020304050607"), uuid);
        assert_eq!(parse_uuid("0123456789ABCDEF0001020304050607"), uuid);
        assert_eq!(parse_uuid("guest"), None);
        assert_eq!(parse_uuid("+123456789ABCDEF0001020304050607"), None);
    }
}
