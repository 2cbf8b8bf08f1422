//! Takes a tape apart and puts it together again, without an image between:
//! `roundtrip SOURCE TARGET [FRAME]` also writes the frame bytes to FRAME if given.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use comio_backends::pool::WorkerPool;
use comio_backends::tape::{SourceFormat, open_sink, open_source};
use comio_backends::xen::Tally;
use comio_core::buffer::BufferPool;
use comio_core::tape::{TapeFormat, TapeItem};
use futures::executor::block_on;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, target, frame @ ..] = arguments.as_slice() else {
        return Err("usage: roundtrip SOURCE TARGET [FRAME]".into());
    };
    let mut frame_file = frame.first().map(File::create).transpose()?;
    let workers = Arc::new(WorkerPool::new(2)?);
    let buffers = BufferPool::new(64 << 20, (4 << 20) + (16 << 10));
    let mut tally = Tally::new();
    let (mut frame_bytes, mut batches, mut pages) = (0, 0, 0);
    let format = block_on(async {
        let mut reader = open_source(Path::new(source), SourceFormat::Auto, &workers).await?;
        let format = reader.format();
        let mut writer = open_sink(Path::new(target), format, true, &workers).await?;
        while let Some(item) = reader.next(&buffers).await? {
            match &item {
                TapeItem::Frame(bytes) => {
                    frame_bytes += bytes.len();
                    if format == TapeFormat::XEN_XL {
                        tally.add(bytes)?;
                    }
                    if let Some(file) = &mut frame_file {
                        file.write_all(bytes)?;
                    }
                }
                TapeItem::Batch(batch) => {
                    batches += 1;
                    pages += batch.pfns.count();
                }
            }
            writer.write(item).await?;
        }
        writer.finish().await?;
        Ok::<_, Box<dyn Error>>(format)
    })?;
    let mut report = Vec::new();
    writeln!(report, "{pages} pages in {batches} batches, {frame_bytes} frame bytes")?;
    if format == TapeFormat::XEN_XL {
        for record in tally.finish()? {
            writeln!(report, "{:>8} {:>12} {}", record.count, record.bytes, record.name)?;
        }
    }
    std::io::stderr().write_all(&report)?;
    Ok(())
}
