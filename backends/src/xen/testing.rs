//! Synthetic save files, for tests.

use comio_core::PAGE_SIZE;
use comio_core::tape::{Pfns, TapeError};

use super::format::{
    LIBXC_END, LIBXC_ID, LIBXC_MARKER, LIBXC_PAGE_DATA, LIBXL_END, LIBXL_IDENT, LIBXL_LIBXC_CONTEXT,
    LIBXL_VERSION, PAGE_SHIFT, XL_BYTE_ORDER, XL_FLAGS_KNOWN, XL_MAGIC, carries_contents,
};
use super::{Parser, Progress, Rebuilder, Step};

/// A save file under construction.
#[derive(Clone)]
pub(crate) struct SaveFile {
    pub(crate) bytes: Vec<u8>,
}

impl SaveFile {
    /// xl's header and configuration, libxl's header.
    pub(crate) fn xl(config: &[u8]) -> Self {
        let mut bytes = XL_MAGIC.to_vec();
        for field in [XL_BYTE_ORDER, XL_FLAGS_KNOWN, 0, u32::try_from(config.len()).unwrap()] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(config);
        bytes.extend(LIBXL_IDENT.to_be_bytes());
        bytes.extend(LIBXL_VERSION.to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        Self { bytes }
    }

    /// libxl's hand-over and libxc's two headers.
    pub(crate) fn libxc(self, version: u32, domain_type: u32) -> Self {
        let mut file = self.record(LIBXL_LIBXC_CONTEXT, b"");
        file.bytes.extend(LIBXC_MARKER.to_be_bytes());
        file.bytes.extend(LIBXC_ID.to_be_bytes());
        file.bytes.extend(version.to_be_bytes());
        file.bytes.extend([0; 8]);
        file.bytes.extend(domain_type.to_le_bytes());
        file.bytes.extend(PAGE_SHIFT.to_le_bytes());
        file.bytes.extend([0; 2]);
        file.bytes.extend(4u32.to_le_bytes());
        file.bytes.extend(17u32.to_le_bytes());
        file
    }

    pub(crate) fn record(self, record_type: u32, body: &[u8]) -> Self {
        self.padded_record(record_type, body, 0)
    }

    /// A record whose padding is not zero.
    pub(crate) fn padded_record(mut self, record_type: u32, body: &[u8], pad: u8) -> Self {
        self.bytes.extend(record_type.to_le_bytes());
        self.bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        self.bytes.extend(body);
        let padding = body.len().next_multiple_of(8) - body.len();
        self.bytes.extend(std::iter::repeat_n(pad, padding));
        self
    }

    /// A record of pages with these entries; the contents tell the pfn.
    pub(crate) fn pages(mut self, entries: &[u64]) -> Self {
        let with_contents: Vec<u64> =
            entries.iter().copied().filter(|entry| carries_contents(entry >> 60) == Some(true)).collect();
        let length = 8 + 8 * entries.len() + PAGE_SIZE * with_contents.len();
        let header =
            [LIBXC_PAGE_DATA, u32::try_from(length).unwrap(), u32::try_from(entries.len()).unwrap(), 0];
        for field in header {
            self.bytes.extend(field.to_le_bytes());
        }
        for entry in entries {
            self.bytes.extend(entry.to_le_bytes());
        }
        for entry in with_contents {
            self.bytes.extend([entry.to_le_bytes()[0]; PAGE_SIZE]);
        }
        self
    }

    /// libxc's and libxl's ends.
    pub(crate) fn end(self) -> Vec<u8> {
        self.record(LIBXC_END, b"").record(LIBXL_END, b"").bytes
    }
}

/// A small PV save as Xen writes it.
pub(crate) fn pv() -> Vec<u8> {
    SaveFile::xl(b"{ \"c_info\": { \"type\": \"pv\" } }\0")
        .libxc(3, 1)
        .record(0x02, &[8, 4, 0, 0, 0, 0, 0, 0])
        .record(0x11, &[7; 24])
        .record(0x10, b"")
        .record(0x03, &[1; 24])
        .pages(&[0, 1, 2 | 9 << 60, 3 | 1 << 60])
        .pages(&[4, 5 | 0xf << 60])
        .record(0x08, &[2; 24])
        .record(0x07, &[3; PAGE_SIZE])
        .record(0x04, &[4; 37])
        .end()
}

/// A small HVM save of an older version, with an emulator.
pub(crate) fn hvm() -> Vec<u8> {
    let file = SaveFile::xl(b"{}\0")
        .libxc(2, 2)
        .pages(&[0xf << 60, 1 | 0xf << 60, 2 | 0xf << 60])
        .pages(&[0x10, 0x11, 0x13, 0x20 | 0xe << 60])
        .record(0x09, &[9; 51])
        .record(0x0a, &[0; 24])
        .record(LIBXC_END, b"");
    let mut bytes = file.record(2, b"\x02\0\0\0\0\0\0\0key\0value\0").record(3, &[5; 100]).bytes;
    bytes.extend([0; 8]);
    bytes
}

/// A tape's items, pages as bytes.
pub(crate) type Items = Vec<(Step, Vec<u8>)>;

pub(crate) fn take_apart(bytes: &[u8]) -> Result<Items, TapeError> {
    let mut parser = Parser::new(bytes, "a test");
    let mut items = Vec::new();
    while let Some(step) = parser.step()? {
        let mut pages = Vec::new();
        if let Step::Pages(pfns) = &step {
            pages.resize(pfns.count() * PAGE_SIZE, 0);
            parser.read_pages(&mut pages)?;
        }
        items.push((step, pages));
    }
    Ok(items)
}

/// Puts items together again, with frame bytes cut into pieces of `cut` bytes.
pub(crate) fn put_together(items: &Items, cut: usize) -> Result<Vec<u8>, TapeError> {
    let mut rebuilder = Rebuilder::new();
    let mut bytes = Vec::new();
    for (step, pages) in items {
        match step {
            Step::Frame(frame) => {
                for piece in frame.chunks(cut) {
                    add_frame(&mut rebuilder, piece, &mut bytes)?;
                }
            }
            Step::Pages(pfns) => {
                rebuilder.batch(pfns)?;
                bytes.extend(pages);
            }
        }
    }
    rebuilder.finish()?;
    Ok(bytes)
}

pub(crate) fn add_frame(
    rebuilder: &mut Rebuilder,
    mut piece: &[u8],
    bytes: &mut Vec<u8>,
) -> Result<(), TapeError> {
    loop {
        let mut output = Vec::new();
        let progress = rebuilder.frame(&mut piece, &mut output)?;
        assert!(output.len() <= 3 << 16, "{} bytes at once", output.len());
        bytes.extend(output);
        if progress == Progress::Done {
            return Ok(());
        }
    }
}

/// The frame bytes of a save file.
pub(crate) fn frame_of(bytes: &[u8]) -> Vec<u8> {
    let items = take_apart(bytes).unwrap();
    items
        .into_iter()
        .filter_map(|(step, _)| match step {
            Step::Frame(frame) => Some(frame),
            Step::Pages(_) => None,
        })
        .flatten()
        .collect()
}

pub(crate) fn pfns_of(items: &Items) -> Vec<Pfns> {
    items
        .iter()
        .filter_map(|(step, _)| match step {
            Step::Pages(pfns) => Some(pfns.clone()),
            Step::Frame(_) => None,
        })
        .collect()
}
