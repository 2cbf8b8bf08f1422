//! libxenforeignmemory: other domains' pages.

#![expect(unsafe_code, reason = "a C library's functions, and memory that a guest writes to")]

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr::{self, NonNull};

use comio_core::PAGE_SIZE;
use xenforeignmemory_sys as sys;

/// `PROT_READ` of mmap(2).
const READ: c_int = 1;

/// The way to other domains' memory.
#[derive(Debug)]
pub(super) struct ForeignMemory {
    handle: NonNull<sys::xenforeignmemory_handle>,
}

// SAFETY: the library allows a handle to be used by any thread, one at a time.
unsafe impl Send for ForeignMemory {}

impl ForeignMemory {
    /// Opens it.
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: a null logger stands for the library's own; flags 0 are allowed.
        let handle = unsafe { sys::xenforeignmemory_open(ptr::null_mut(), 0) };
        NonNull::new(handle).map(|handle| Self { handle }).ok_or_else(io::Error::last_os_error)
    }

    /// Copies `frames` of a domain (machine frames of a PV guest, its own of others) into
    /// `pages`, 4096 bytes each. Gives for each whether it was there; others are zeros.
    pub(super) fn copy(&self, domain: u32, frames: &[u64], pages: &mut [u8]) -> io::Result<Vec<bool>> {
        assert!(pages.len() == frames.len() * PAGE_SIZE, "a page for each frame");
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let mapping = Mapping::new(self, domain, frames)?;
        let out = pages.chunks_exact_mut(PAGE_SIZE).enumerate();
        Ok(out.map(|(index, page)| mapping.copy(index, page)).collect())
    }
}

impl Drop for ForeignMemory {
    fn drop(&mut self) {
        // SAFETY: the handle is open and nobody has it any more. It is gone even if this fails.
        unsafe { sys::xenforeignmemory_close(self.handle.as_ptr()) };
    }
}

/// Pages of a domain in our address space, read-only.
struct Mapping<'a> {
    memory: &'a ForeignMemory,
    address: NonNull<c_void>,
    /// For each page 0, or why it is not there.
    errors: Vec<c_int>,
}

impl<'a> Mapping<'a> {
    fn new(memory: &'a ForeignMemory, domain: u32, frames: &[u64]) -> io::Result<Self> {
        let mut errors: Vec<c_int> = vec![0; frames.len()];
        // SAFETY: the handle is open; `frames` and `errors` have as many elements as is said.
        let address = unsafe {
            sys::xenforeignmemory_map(
                memory.handle.as_ptr(),
                domain,
                READ,
                frames.len(),
                frames.as_ptr(),
                errors.as_mut_ptr(),
            )
        };
        let address = NonNull::new(address).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { memory, address, errors })
    }

    /// Copies page `index`; zeros if it is not there.
    fn copy(&self, index: usize, page: &mut [u8]) -> bool {
        assert!(page.len() == PAGE_SIZE, "one page");
        if self.errors.get(index) != Some(&0) {
            page.fill(0);
            return false;
        }
        // SAFETY: `index` is below the number of mapped pages, and this one was mapped, so
        // 4096 bytes can be read there; `page` has as many and is ours, so they do not overlap.
        // A running guest may write there meanwhile: the bytes are copied as they come, by
        // pointer, and no reference to them is made. What a guest that runs tears is copied
        // again, since the hypervisor notes the write.
        unsafe {
            let source = self.address.as_ptr().cast::<u8>().add(index * PAGE_SIZE);
            ptr::copy_nonoverlapping(source, page.as_mut_ptr(), PAGE_SIZE);
        }
        true
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        let (handle, address) = (self.memory.handle.as_ptr(), self.address.as_ptr());
        // SAFETY: so many pages were mapped there with this handle, and no reference into them
        // was ever made. A failure leaves them mapped, which costs address space only.
        unsafe { sys::xenforeignmemory_unmap(handle, address, self.errors.len()) };
    }
}
