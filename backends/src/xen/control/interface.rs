//! libxenctrl: domains, their state, and which pages they write to.

#![expect(unsafe_code, reason = "a C library's functions")]

use std::io;
use std::path::Path;
use std::ptr::{self, NonNull};

use comio_core::PAGE_SIZE;
use comio_core::hypervisor::HypervisorError;
use comio_core::page_set::PageSet;
use xenctrl_sys as sys;

/// How dom0 reaches the hypervisor.
const PRIVCMD: &str = "/dev/xen/privcmd";
/// Domains asked for at once.
const BATCH: usize = 256;

/// What a domain is, as far as its memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Paravirtualised: it knows its machine frames.
    Pv,
    /// Hardware virtualised without a device model.
    Pvh,
    /// Hardware virtualised with one, which writes to its memory unnoticed.
    Hvm,
}

/// A domain's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Domain {
    /// Its number; used again only after all others were.
    pub id: u32,
    /// The uuid that it was created with.
    pub uuid: [u8; 16],
    /// What it is.
    pub kind: Kind,
    /// Being taken down.
    pub dying: bool,
    /// Shut down, suspended or crashed, and not taken down yet.
    pub shutdown: bool,
    /// Paused by the toolstack, us included.
    pub paused: bool,
    /// Pages that it has.
    pub pages: u64,
    /// Pages that it may have.
    pub pages_max: u64,
    /// CPU time that it has used, in nanoseconds.
    pub cpu_ns: u64,
    /// Machine frame that its shared info page is in.
    pub shared_info_frame: u64,
}

/// The control interface of the hypervisor that we run under.
#[derive(Debug)]
pub struct Control {
    handle: NonNull<sys::xc_interface>,
}

// SAFETY: the library allows a handle to be used by any thread, one at a time (its own caches
// are locked besides, as it was opened without XC_OPENFLAG_NON_REENTRANT).
unsafe impl Send for Control {}

/// An error of the operating system for what was tried on a domain.
pub(super) fn refused(action: &'static str, domain: u32, error: &io::Error) -> HypervisorError {
    HypervisorError::Refused { action, guest: format!("domain {domain}"), problem: error.to_string() }
}

/// The library's convention: a negative result is an error in `errno`.
fn check<T: Into<i64>>(result: T) -> io::Result<i64> {
    let result = result.into();
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Control {
    /// Opens it.
    ///
    /// # Errors
    /// In words, where there is no Xen, or this is not its control domain.
    pub fn open() -> io::Result<Self> {
        let refused = |problem: String| io::Error::other(format!("cannot reach Xen: {problem}"));
        if !Path::new(PRIVCMD).exists() {
            return Err(refused(format!(
                "there is no {PRIVCMD}: this machine does not run Xen, or is not its control domain \
                 (dom0), or the module xen-privcmd is not loaded"
            )));
        }
        // SAFETY: null loggers stand for the library's own; flags 0 are allowed.
        let handle = unsafe { sys::xc_interface_open(ptr::null_mut(), ptr::null_mut(), 0) };
        let error = io::Error::last_os_error();
        match NonNull::new(handle) {
            Some(handle) => Ok(Self { handle }),
            None => Err(refused(format!("{PRIVCMD} cannot be used: {error}; root may, in dom0"))),
        }
    }

    /// All domains, by number.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn domains(&self) -> io::Result<Vec<Domain>> {
        let mut domains = Vec::new();
        loop {
            let first = domains.last().map_or(0, |last: &Domain| last.id + 1);
            let batch = self.domains_from(first, BATCH)?;
            if batch.is_empty() {
                return Ok(domains);
            }
            domains.extend(batch);
        }
    }

    /// The domain of that number, if there is one.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn domain(&self, id: u32) -> io::Result<Option<Domain>> {
        Ok(self.domains_from(id, 1)?.into_iter().find(|domain| domain.id == id))
    }

    fn domains_from(&self, first: u32, most: usize) -> io::Result<Vec<Domain>> {
        let mut infos = vec![sys::xc_domaininfo_t::default(); most];
        // A batch: it fits.
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        // SAFETY: the handle is open, and `infos` has room for `most` of these structures.
        let count = check(unsafe {
            sys::xc_domain_getinfolist(self.handle.as_ptr(), first, most, infos.as_mut_ptr())
        })?;
        infos.truncate(usize::try_from(count).unwrap_or(0));
        Ok(infos.iter().map(domain_of).collect())
    }

    /// Makes a domain stand still. Counts: it runs after as many [`unpause`](Self::unpause)s.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn pause(&self, id: u32) -> io::Result<()> {
        // SAFETY: the handle is open; the call takes no pointer of ours.
        check(unsafe { sys::xc_domain_pause(self.handle.as_ptr(), id) }).map(|_| ())
    }

    /// Takes one pause back.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn unpause(&self, id: u32) -> io::Result<()> {
        // SAFETY: as for `pause`.
        check(unsafe { sys::xc_domain_unpause(self.handle.as_ptr(), id) }).map(|_| ())
    }

    /// The highest guest frame that a domain has.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn highest_frame(&self, id: u32) -> io::Result<u64> {
        let mut highest: sys::xen_pfn_t = 0;
        // SAFETY: the handle is open, and `highest` is where the call writes one number.
        check(unsafe { sys::xc_domain_maximum_gpfn(self.handle.as_ptr(), id, &raw mut highest) })?;
        Ok(highest)
    }

    /// Bytes of a PV guest's word: 8, or 4 for a 32-bit one.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn word_bytes(&self, id: u32) -> io::Result<u32> {
        let mut width = 0;
        // SAFETY: the handle is open, and `width` is where the call writes one number.
        check(unsafe { sys::xc_domain_get_guest_width(self.handle.as_ptr(), id, &raw mut width) })?;
        Ok(width)
    }

    /// Begins to note which pages are written to. Only this call's result tells whether the
    /// hypervisor can: taking the pages succeeds with none where it cannot.
    ///
    /// # Errors
    /// `EOPNOTSUPP` and others where it cannot, `EINVAL` when they are being noted already.
    pub fn begin_dirty(&self, id: u32) -> io::Result<()> {
        self.shadow(id, sys::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)
    }

    /// Ends that.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn end_dirty(&self, id: u32) -> io::Result<()> {
        self.shadow(id, sys::XEN_DOMCTL_SHADOW_OP_OFF)
    }

    fn shadow(&self, id: u32, operation: u32) -> io::Result<()> {
        // SAFETY: the handle is open; a null pool size is allowed for these operations, which
        // do not look at it.
        check(unsafe { sys::xc_shadow_control(self.handle.as_ptr(), id, operation, ptr::null_mut(), 0) })
            .map(|_| ())
    }

    /// The pages below `page_count` written to since the last call, which are noted anew.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn take_dirty(&self, id: u32, page_count: u64) -> io::Result<PageSet> {
        let mut bitmap = HypercallBuffer::new(self, page_count.div_ceil(8))?;
        let mut stats = sys::xc_shadow_op_stats_t::default();
        // SAFETY: the handle is open; `bitmap` is a hypercall buffer of at least `page_count`
        // bits, as the call requires, and `stats` is where it writes its counts.
        let noted = check(unsafe {
            sys::xc_logdirty_control(
                self.handle.as_ptr(),
                id,
                sys::XEN_DOMCTL_SHADOW_OP_CLEAN,
                bitmap.as_ptr(),
                page_count,
                0,
                &raw mut stats,
            )
        })?;
        if u64::try_from(noted) != Ok(page_count) {
            let problem = format!("notes of {noted} pages came back for {page_count}");
            return Err(io::Error::other(problem));
        }
        Ok(PageSet::from_words(bitmap.words(), page_count))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: the handle is open and nobody has it any more. It is gone even if this fails.
        unsafe { sys::xc_interface_close(self.handle.as_ptr()) };
    }
}

fn domain_of(info: &sys::xc_domaininfo_t) -> Domain {
    let is = |flag: u32| info.flags & flag != 0;
    // A PVH domain has a local APIC at most.
    let emulated = info.arch_config.emulation_flags & !sys::XEN_X86_EMU_LAPIC != 0;
    Domain {
        id: u32::from(info.domain),
        uuid: info.handle,
        kind: match (is(sys::XEN_DOMINF_hvm_guest), emulated) {
            (false, _) => Kind::Pv,
            (true, false) => Kind::Pvh,
            (true, true) => Kind::Hvm,
        },
        dying: is(sys::XEN_DOMINF_dying),
        shutdown: is(sys::XEN_DOMINF_shutdown),
        paused: is(sys::XEN_DOMINF_paused),
        pages: info.tot_pages,
        pages_max: info.max_pages,
        cpu_ns: info.cpu_time,
        shared_info_frame: info.shared_info_frame,
    }
}

/// Memory that the hypervisor may write to, in whole pages.
struct HypercallBuffer<'a> {
    control: &'a Control,
    buffer: Box<sys::xc_hypercall_buffer_t>,
    pages: i32,
}

impl<'a> HypercallBuffer<'a> {
    fn new(control: &'a Control, bytes: u64) -> io::Result<Self> {
        let pages = i32::try_from(bytes.div_ceil(PAGE_SIZE as u64)).map_err(io::Error::other)?.max(1);
        // All zero is an unbounced buffer without memory, as DECLARE_HYPERCALL_BUFFER makes it.
        let mut buffer = Box::<sys::xc_hypercall_buffer_t>::default();
        // SAFETY: the handle is open, and `buffer` is a buffer without memory, at an address
        // that it keeps.
        let memory = unsafe {
            sys::xc__hypercall_buffer_alloc_pages(control.handle.as_ptr(), &raw mut *buffer, pages)
        };
        if memory.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the memory is ours, and of that many pages.
        unsafe { ptr::write_bytes(memory.cast::<u8>(), 0, usize::try_from(pages).unwrap_or(0) * PAGE_SIZE) };
        Ok(Self { control, buffer, pages })
    }

    fn as_ptr(&mut self) -> *mut sys::xc_hypercall_buffer_t {
        &raw mut *self.buffer
    }

    /// What is in it, as little-endian words.
    fn words(&self) -> Vec<u64> {
        let count = usize::try_from(self.pages).unwrap_or(0) * PAGE_SIZE / size_of::<u64>();
        // SAFETY: the memory is ours, page aligned, of that many pages, and written to in full
        // when it was made; the hypervisor writes to it only during a call, which takes `self`
        // mutably by its pointer and is over.
        let words = unsafe { std::slice::from_raw_parts(self.buffer.hbuf.cast::<u64>(), count) };
        words.iter().copied().map(u64::from_le).collect()
    }
}

impl Drop for HypercallBuffer<'_> {
    fn drop(&mut self) {
        let (handle, buffer) = (self.control.handle.as_ptr(), &raw mut *self.buffer);
        // SAFETY: the buffer was allocated with this handle and so many pages, and is not used
        // any more.
        unsafe { sys::xc__hypercall_buffer_free_pages(handle, buffer, self.pages) };
    }
}
