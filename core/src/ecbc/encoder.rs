//! From a page to its code.

use std::fmt;

use zstd_safe::{ParamSwitch, Strategy};

use super::classify::{is_noise, uniform_on};
use super::cpu::Cpu;
use super::lz4::Lz4Encoder;
use super::page_lz::FastPageLzEncoder;
use super::page_lz::packed::{Balanced, Light, PackedEncoder};
use super::words::WordsEncoder;
use super::zstd::{Tuning, ZstdEncoder};
use super::{BLOB_MAX, BLOB_ROOM, Method, PageCode, Tag};
use crate::Page;

/// Codes pages by one [`Method`]; keeps the coders' tables between pages, so make one for each
/// worker and reuse it. The same page gives the same code, whatever was coded before.
pub struct PageEncoder {
    method: Method,
    cpu: Cpu,
    finds_uniform: bool,
    finds_noise: bool,
    coder: Coder,
}

enum Coder {
    None,
    Lz4(Lz4Encoder),
    Zstd(ZstdEncoder),
    FastLz(FastPageLzEncoder),
    LightLz(PackedEncoder<Light>),
    BalancedLz(PackedEncoder<Balanced>),
    Words(WordsEncoder),
}

impl PageEncoder {
    /// An encoder for `method`; allocates all it will ever need.
    pub fn new(method: Method) -> Self {
        Self::on(Cpu::detect(), method)
    }

    /// The same for this CPU; the codes do not depend on it.
    pub(super) fn on(cpu: Cpu, method: Method) -> Self {
        let coder = match method {
            Method::Raw => Coder::None,
            Method::Lz4 => Coder::Lz4(Lz4Encoder::new()),
            Method::Zstd1 => Coder::Zstd(ZstdEncoder::at_level(1)),
            Method::Turbo => Coder::Words(WordsEncoder::new(cpu)),
            Method::Fast => Coder::FastLz(FastPageLzEncoder::new(cpu)),
            Method::Light => Coder::LightLz(PackedEncoder::new(cpu)),
            Method::Balanced => Coder::BalancedLz(PackedEncoder::new(cpu)),
            Method::Dense => Coder::Zstd(ZstdEncoder::tuned(DENSE)),
        };
        let is_peer = matches!(method, Method::Raw | Method::Lz4 | Method::Zstd1);
        // The fast page LZ strides through noise in less time than it takes to recognise it.
        let finds_noise = !is_peer && !matches!(coder, Coder::FastLz(_));
        Self { method, cpu, finds_uniform: !is_peer, finds_noise, coder }
    }

    /// What a page is that no coder needs to look at: uniform, or noise.
    pub fn look(&self, page: &Page) -> Option<PageCode> {
        if !self.finds_uniform {
            return None;
        }
        match uniform_on(self.cpu, page) {
            Some(0) => Some(PageCode::Zero),
            Some(word) => Some(PageCode::Fill(word)),
            None => is_noise(self.cpu, page).then_some(PageCode::Stored),
        }
    }

    /// Whether uniform pages are told from others.
    pub(crate) fn finds_uniform(&self) -> bool {
        self.finds_uniform
    }

    /// Codes one page; a blob goes to the beginning of `blob`, whose rest is unspecified after.
    ///
    /// # Panics
    /// If `blob` is shorter than [`BLOB_ROOM`].
    pub fn encode(&mut self, page: &Page, blob: &mut [u8]) -> PageCode {
        assert!(blob.len() >= BLOB_ROOM, "room for a blob is {BLOB_ROOM} bytes, not {}", blob.len());
        if self.finds_uniform {
            match uniform_on(self.cpu, page) {
                Some(0) => return PageCode::Zero,
                Some(word) => return PageCode::Fill(word),
                None => {}
            }
        }
        if self.finds_noise && is_noise(self.cpu, page) {
            return PageCode::Stored;
        }
        self.coder.encode(page, &mut blob[..BLOB_MAX])
    }
}

impl Coder {
    fn encode(&mut self, page: &Page, target: &mut [u8]) -> PageCode {
        let (tag, len) = match self {
            Self::None => return PageCode::Stored,
            Self::Lz4(coder) => (Tag::Lz4, coder.encode(page, target)),
            Self::Zstd(coder) => (Tag::Zstd, coder.encode(page, target)),
            Self::FastLz(coder) => (Tag::PageLz, coder.encode(page, target)),
            Self::LightLz(coder) => (Tag::PackedLz, coder.encode(page, target)),
            Self::BalancedLz(coder) => (Tag::PackedLz, coder.encode(page, target)),
            Self::Words(coder) => (Tag::Words, coder.encode(page, target)),
        };
        len.map_or(PageCode::Stored, |len| PageCode::Blob { tag, len })
    }
}

impl fmt::Debug for PageEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageEncoder").field("method", &self.method).finish_non_exhaustive()
    }
}

const DENSE: Tuning = Tuning {
    level: 1,
    hash_log: 12,
    min_match: 5,
    strategy: Strategy::ZSTD_fast,
    literals: ParamSwitch::Enable,
};
