//! Xen save files and their frames: whatever comes, no panic, no unbounded output at once, and
//! what is accepted comes back bit for bit. The first input byte chooses the side.

#![no_main]

use comio_backends::xen::{Parser, Progress, Rebuilder, Step, Tally};
use comio_core::PAGE_SIZE;
use comio_core::tape::TapeError;
use libfuzzer_sys::fuzz_target;

/// Most bytes that may come out of the rebuilder at once.
const OUTPUT_MAX: usize = 192 << 10;
/// A dozen frame bytes may stand for 128 MiB: enough is enough.
const REBUILT_MAX: usize = 4 << 20;

fuzz_target!(|input: &[u8]| match input.split_first() {
    Some((side, bytes)) if side % 2 == 0 => save_file(bytes),
    Some((_, bytes)) => frame(bytes),
    None => {}
});

fn save_file(bytes: &[u8]) {
    if let Ok((rebuilt, frame)) = round_trip(bytes) {
        assert!(rebuilt == bytes, "what was accepted came back different");
        let mut tally = Tally::new();
        tally.add(&frame).expect("the parser's own frame");
        tally.finish().expect("the parser's own frame");
    }
}

/// The file taken apart and put together again, and its frame.
fn round_trip(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TapeError> {
    let mut parser = Parser::new(bytes, "fuzz input");
    let (mut rebuilder, mut rebuilt, mut frame) = (Rebuilder::new(), Vec::new(), Vec::new());
    while let Some(step) = parser.step()? {
        match step {
            Step::Frame(piece) => {
                rebuild(&mut rebuilder, &piece, &mut rebuilt).expect("the parser's own frame");
                frame.extend(piece);
            }
            Step::Pages(pfns) => {
                let mut pages = vec![0; pfns.count() * PAGE_SIZE];
                parser.read_pages(&mut pages)?;
                rebuilder.batch(&pfns).expect("the parser's own batch");
                rebuilt.extend(pages);
            }
        }
    }
    rebuilder.finish().expect("the parser came to its end");
    Ok((rebuilt, frame))
}

fn frame(bytes: &[u8]) {
    let mut rebuilder = Rebuilder::new();
    let _ = rebuild(&mut rebuilder, bytes, &mut Vec::new()).and_then(|()| rebuilder.finish());
    let mut tally = Tally::new();
    let _ = tally.add(bytes).and_then(|()| tally.finish());
}

fn rebuild(rebuilder: &mut Rebuilder, mut piece: &[u8], rebuilt: &mut Vec<u8>) -> Result<(), TapeError> {
    while rebuilt.len() < REBUILT_MAX {
        let mut output = Vec::new();
        let progress = rebuilder.frame(&mut piece, &mut output)?;
        assert!(output.len() <= OUTPUT_MAX, "{} bytes at once", output.len());
        rebuilt.extend(output);
        if progress == Progress::Done {
            break;
        }
    }
    Ok(())
}
