//! Constants of the Xen save formats: xl's header, libxl's stream v2, libxc's image v2 and v3.

use std::borrow::Cow;

/// How errors call the whole.
pub(super) const FORMAT: &str = "Xen save file";

pub(super) const XL_MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
/// Enough of the magic to tell a save file of xl (of any version) from guest memory.
const XL_MAGIC_START: &[u8] = b"Xen saved domain";
pub(super) const XL_BYTE_ORDER: u32 = 0x0102_0304;
/// Mandatory flags that we know: the configuration is JSON, the stream is libxl's v2.
pub(super) const XL_FLAGS_KNOWN: u32 = 0b11;
pub(super) const XL_FLAG_STREAM_V2: u32 = 0b10;
pub(super) const XL_HEADER_LEN: usize = 48;

pub(super) const LIBXL_IDENT: u64 = 0x4c69_6278_6c46_6d74; // "LibxlFmt"
pub(super) const LIBXL_VERSION: u32 = 2;
pub(super) const LIBXL_HEADER_LEN: usize = 16;
pub(super) const LIBXL_END: u32 = 0;
pub(super) const LIBXL_LIBXC_CONTEXT: u32 = 1;
pub(super) const LIBXL_CHECKPOINT_END: u32 = 4;

pub(super) const LIBXC_MARKER: u64 = u64::MAX;
pub(super) const LIBXC_ID: u32 = 0x5845_4e46; // "XENF"
pub(super) const LIBXC_VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
pub(super) const LIBXC_HEADER_LEN: usize = 24;
pub(super) const DOMAIN_HEADER_LEN: usize = 16;
/// x86 PV and x86 HVM (PVH included).
pub(super) const DOMAIN_TYPES: std::ops::RangeInclusive<u32> = 1..=2;
pub(super) const PAGE_SHIFT: u16 = 12;
pub(super) const LIBXC_END: u32 = 0;
pub(super) const LIBXC_PAGE_DATA: u32 = 1;
pub(super) const LIBXC_CHECKPOINT: u32 = 0x0e;
/// libxc refuses longer records on both sides (`REC_LENGTH_MAX`).
pub(super) const LIBXC_RECORD_LEN_MAX: u32 = 128 << 20;

/// Bit 0 of the options of both streams.
pub(super) const OPTION_BIG_ENDIAN: u32 = 1;
pub(super) const RECORD_HEADER_LEN: usize = 8;
/// Count and a reserved word, before the pfns of `PAGE_DATA`.
pub(super) const PAGE_DATA_HEADER_LEN: u32 = 8;

/// Bits 51-0 of a pfn entry; above them 8 reserved bits and the type.
pub(super) const PFN_BITS: u32 = 52;
pub(super) const PFN_MASK: u64 = (1 << PFN_BITS) - 1;

/// How many first bytes [`is_xl`] wants to see.
pub const DETECT_LEN: usize = XL_MAGIC_START.len();

/// Whether a stream that begins with `first_bytes` is a save file of xl, or was cut off within
/// its mark.
pub fn is_xl(first_bytes: &[u8]) -> bool {
    let cut_off = !first_bytes.is_empty() && XL_MAGIC_START.starts_with(first_bytes);
    cut_off || first_bytes.starts_with(XL_MAGIC_START)
}

/// Whether a page of this type (a pfn entry's top four bits) brings its contents; `None` for
/// the reserved types.
pub(super) fn carries_contents(page_type: u64) -> Option<bool> {
    match page_type {
        0..=4 | 9..=0xc => Some(true), // ordinary, page tables, pinned page tables
        0xd..=0xf => Some(false),      // broken, to be allocated only, absent
        _ => None,
    }
}

/// Zero to seven bytes follow a body, so that records begin at multiples of 8.
pub(super) fn padded_len(length: u32) -> u64 {
    u64::from(length).next_multiple_of(8)
}

/// The parts of a save file that are not records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Part {
    XlHeader = 0,
    XlConfig = 1,
    LibxlHeader = 2,
    LibxcHeader = 3,
    DomainHeader = 4,
    Trailing = 5,
}

impl Part {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        let parts = [
            Self::XlHeader,
            Self::XlConfig,
            Self::LibxlHeader,
            Self::LibxcHeader,
            Self::DomainHeader,
            Self::Trailing,
        ];
        parts.into_iter().find(|part| *part as u8 == code)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::XlHeader => "xl header",
            Self::XlConfig => "xl configuration",
            Self::LibxlHeader => "libxl header",
            Self::LibxcHeader => "libxc image header",
            Self::DomainHeader => "libxc domain header",
            Self::Trailing => "bytes after the end",
        }
    }
}

/// Whose records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Libxl,
    Libxc,
}

impl Layer {
    /// A record type's name, with the layer before it.
    pub(super) fn record_name(self, record_type: u32) -> Cow<'static, str> {
        match self {
            Self::Libxl => libxl_name(record_type).map_or_else(
                || Cow::Owned(format!("libxl record of unknown type {record_type:#010x}")),
                Cow::Borrowed,
            ),
            Self::Libxc => libxc_name(record_type).map_or_else(
                || Cow::Owned(format!("libxc record of unknown type {record_type:#010x}")),
                Cow::Borrowed,
            ),
        }
    }
}

fn libxl_name(record_type: u32) -> Option<&'static str> {
    Some(match record_type {
        LIBXL_END => "libxl END",
        LIBXL_LIBXC_CONTEXT => "libxl LIBXC_CONTEXT",
        2 => "libxl EMULATOR_XENSTORE_DATA",
        3 => "libxl EMULATOR_CONTEXT",
        LIBXL_CHECKPOINT_END => "libxl CHECKPOINT_END",
        5 => "libxl CHECKPOINT_STATE",
        _ => return None,
    })
}

fn libxc_name(record_type: u32) -> Option<&'static str> {
    Some(match record_type {
        LIBXC_END => "libxc END",
        LIBXC_PAGE_DATA => "libxc PAGE_DATA",
        0x02 => "libxc X86_PV_INFO",
        0x03 => "libxc X86_PV_P2M_FRAMES",
        0x04 => "libxc X86_PV_VCPU_BASIC",
        0x05 => "libxc X86_PV_VCPU_EXTENDED",
        0x06 => "libxc X86_PV_VCPU_XSAVE",
        0x07 => "libxc SHARED_INFO",
        0x08 => "libxc X86_TSC_INFO",
        0x09 => "libxc HVM_CONTEXT",
        0x0a => "libxc HVM_PARAMS",
        0x0b => "libxc TOOLSTACK",
        0x0c => "libxc X86_PV_VCPU_MSRS",
        0x0d => "libxc VERIFY",
        LIBXC_CHECKPOINT => "libxc CHECKPOINT",
        0x0f => "libxc CHECKPOINT_DIRTY_PFN_LIST",
        0x10 => "libxc STATIC_DATA_END",
        0x11 => "libxc X86_CPUID_POLICY",
        0x12 => "libxc X86_MSR_POLICY",
        _ => return None,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn save_files_of_any_xl_are_detected() {
        assert!(is_xl(XL_MAGIC));
        assert!(is_xl(b"Xen saved domain\0"));
        assert!(is_xl(b"Xen saved domai"), "cut off within the mark");
        assert!(!is_xl(b"Xen saved demai"));
        assert!(!is_xl(b""));
        assert!(!is_xl(&[0; 48]));
    }

    #[test]
    fn part_codes_are_their_own() {
        let parts: Vec<_> = (0..=u8::MAX).filter_map(Part::from_code).collect();
        assert_eq!(parts.len(), 6);
        assert!(parts.iter().all(|&part| Part::from_code(part as u8) == Some(part)));
    }
}
