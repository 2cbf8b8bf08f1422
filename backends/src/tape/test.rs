//! Tapes through real files and pipes.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::thread;

use comio_core::SEGMENT_PAGES;
use comio_core::buffer::Payload;
use comio_core::tape::{Batch, Pfns, TapeItem};
use futures::executor::block_on;

use super::*;
use crate::xen::testing;

const SEGMENT_LEN: usize = SEGMENT_PAGES * PAGE_SIZE;

struct Bench {
    directory: tempfile::TempDir,
    workers: Arc<WorkerPool>,
    buffers: BufferPool,
}

impl Bench {
    fn new() -> Self {
        Self::with_buffers(3)
    }

    fn with_buffers(slots: usize) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            workers: Arc::new(WorkerPool::new(2).unwrap()),
            buffers: BufferPool::new(slots * (SEGMENT_LEN + 16384), SEGMENT_LEN + 16384),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn fifo(&self, name: &str) -> std::path::PathBuf {
        let path = self.path(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn source(&self, path: &Path) -> Result<Box<dyn GuestReader>, TapeError> {
        block_on(open_source(path, SourceFormat::Auto, &self.workers))
    }

    fn sink(
        &self,
        path: &Path,
        format: TapeFormat,
        replace: bool,
    ) -> Result<Box<dyn GuestWriter>, TapeError> {
        block_on(open_sink(path, format, replace, &self.workers))
    }

    /// Copies a tape item by item; gives its format.
    fn copy(&self, from: &Path, to: &Path) -> Result<TapeFormat, TapeError> {
        let mut reader = self.source(from)?;
        let mut writer = self.sink(to, reader.format(), false)?;
        block_on(async {
            while let Some(item) = reader.next(&self.buffers).await? {
                writer.write(item).await?;
            }
            writer.finish().await
        })?;
        Ok(reader.format())
    }

    /// Reads a tape to its end or its error; gives the batches' pages.
    fn read(&self, path: &Path) -> Result<Vec<usize>, TapeError> {
        let mut reader = self.source(path)?;
        let mut batches = Vec::new();
        while let Some(item) = block_on(reader.next(&self.buffers))? {
            if let TapeItem::Batch(batch) = item {
                batches.push(batch.pfns.count());
            }
        }
        Ok(batches)
    }
}

fn dump(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i / 1000 % 251).unwrap()).collect()
}

fn batch(first: u64, pages: usize) -> TapeItem {
    let bytes = dump(pages * PAGE_SIZE);
    TapeItem::Batch(Batch {
        pfns: Pfns::Run { first, count: pages },
        pages: Payload::Bytes(Buffer::unpooled(bytes)),
    })
}

/// A save file of three batches and more.
fn large_save() -> Vec<u8> {
    let entries: Vec<u64> = (0..2100).collect();
    let absent: Vec<u64> = (5000..6000).map(|pfn| pfn | 0xf << 60).collect();
    testing::SaveFile::xl(b"{}").libxc(3, 2).pages(&entries).pages(&absent).pages(&[7, 9]).end()
}

#[test]
fn flat_dumps_of_any_length_come_back() {
    for len in [0, 1, PAGE_SIZE - 1, PAGE_SIZE, 3 * SEGMENT_LEN, 2 * SEGMENT_LEN + 5 * PAGE_SIZE + 17] {
        let bench = Bench::new();
        let bytes = dump(len);
        let source = bench.file("dump", &bytes);
        let target = bench.path("copy");
        assert_eq!(bench.copy(&source, &target).unwrap(), TapeFormat::RAW);
        assert!(fs::read(target).unwrap() == bytes, "{len} bytes differ");
        assert_eq!(bench.source(&source).unwrap().size_hint(), Some(len as u64));
    }
}

#[test]
fn save_files_come_back_with_few_buffers_and_with_many() {
    for slots in [1, 2, 9] {
        let bench = Bench::with_buffers(slots);
        for (name, bytes) in [("large", large_save()), ("pv", testing::pv()), ("hvm", testing::hvm())] {
            let source = bench.file(name, &bytes);
            let target = bench.path(&format!("{name}.copy"));
            assert_eq!(bench.copy(&source, &target).unwrap(), TapeFormat::XEN_XL);
            assert!(fs::read(target).unwrap() == bytes, "{name} differs");
        }
    }
}

#[test]
fn pipes_carry_what_files_do() {
    for bytes in [large_save(), dump(SEGMENT_LEN + 3 * PAGE_SIZE + 5), dump(7), Vec::new()] {
        let bench = Bench::new();
        let (source, target) = (bench.fifo("in"), bench.fifo("out"));
        let result = thread::scope(|scope| {
            let feed = scope.spawn(|| fs::write(&source, &bytes).unwrap());
            let drain = scope.spawn(|| fs::read(&target).unwrap());
            bench.copy(&source, &target).unwrap();
            feed.join().unwrap();
            drain.join().unwrap()
        });
        assert!(result == bytes, "{} bytes differ", bytes.len());
    }
}

#[test]
fn batches_are_segments_of_ascending_pages() {
    let bench = Bench::new();
    let source = bench.file("dump", &dump(2 * SEGMENT_LEN + PAGE_SIZE));
    assert_eq!(bench.read(&source).unwrap(), [SEGMENT_PAGES, SEGMENT_PAGES, 1]);
    assert_eq!(bench.read(&bench.file("save", &large_save())).unwrap(), [1024, 1024, 52, 2]);
}

#[test]
fn a_truncated_save_file_names_the_record_in_files_and_pipes() {
    let bench = Bench::new();
    let mut bytes = large_save();
    bytes.truncate(SEGMENT_LEN + 100_000);
    let expected = format!("the Xen save file ends at byte {}, inside libxc PAGE_DATA", bytes.len());
    let file = bench.file("save", &bytes);
    let error = bench.read(&file).unwrap_err().to_string();
    assert!(error.starts_with(&expected), "{error}");
    let fifo = bench.fifo("in");
    let error = thread::scope(|scope| {
        scope.spawn(|| fs::write(&fifo, &bytes));
        bench.read(&fifo).unwrap_err().to_string()
    });
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn a_dump_that_shrinks_while_it_is_read_is_an_error() {
    let bench = Bench::with_buffers(1);
    let source = bench.file("dump", &dump(3 * SEGMENT_LEN));
    let mut reader = bench.source(&source).unwrap();
    drop(block_on(reader.next(&bench.buffers)).unwrap());
    fs::write(&source, dump(SEGMENT_LEN + 5)).unwrap();
    let mut error = None;
    for _ in 0..3 {
        error = error.or_else(|| block_on(reader.next(&bench.buffers)).err());
    }
    assert!(matches!(error, Some(TapeError::Truncated { .. })), "{error:?}");
}

#[test]
fn missing_sources_and_directories_are_errors() {
    let bench = Bench::new();
    let error = bench.source(&bench.path("nothing")).err().unwrap();
    assert!(error.to_string().starts_with("cannot open "), "{error}");
    let error = bench.source(bench.directory.path()).err().unwrap();
    assert!(matches!(error, TapeError::Io { .. }), "{error}");
}

#[test]
fn forced_formats_are_obeyed() {
    let bench = Bench::new();
    let source = bench.file("save", &testing::pv());
    let raw = block_on(open_source(&source, SourceFormat::Raw, &bench.workers)).unwrap();
    assert_eq!(raw.format(), TapeFormat::RAW);
    let dump = bench.file("dump", &dump(PAGE_SIZE));
    let mut xl = block_on(open_source(&dump, SourceFormat::Xl, &bench.workers)).unwrap();
    assert!(matches!(block_on(xl.next(&bench.buffers)), Err(TapeError::Malformed { .. })));
}

#[test]
fn nothing_is_left_of_an_unfinished_sink() {
    let bench = Bench::new();
    let mut writer = bench.sink(&bench.path("target"), TapeFormat::RAW, false).unwrap();
    block_on(writer.write(batch(0, 3))).unwrap();
    assert_eq!(bench.names().len(), 1);
    assert!(bench.names()[0].ends_with(".comio-part"));
    drop(writer);
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn leftovers_of_a_crash_are_no_obstacle() {
    let bench = Bench::new();
    let target = bench.path("target");
    let mut first = bench.sink(&target, TapeFormat::RAW, true).unwrap();
    let mut second = bench.sink(&target, TapeFormat::RAW, true).unwrap();
    block_on(async {
        first.finish().await.unwrap();
        second.write(batch(0, 1)).await.unwrap();
        second.finish().await.unwrap();
    });
    assert_eq!(bench.names(), ["target"]);
    assert_eq!(fs::read(&target).unwrap(), dump(PAGE_SIZE));
}

#[test]
fn a_finished_sink_is_its_owners_alone() {
    let bench = Bench::new();
    let mut writer = bench.sink(&bench.path("target"), TapeFormat::RAW, false).unwrap();
    block_on(async {
        writer.write(batch(0, 3)).await.unwrap();
        writer.finish().await.unwrap();
    });
    assert_eq!(bench.names(), ["target"]);
    let metadata = fs::metadata(bench.path("target")).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (3 * 4096, 0o600));
}

#[test]
fn an_existing_file_is_replaced_only_on_demand() {
    let bench = Bench::new();
    let target = bench.file("target", b"precious");
    let error = bench.sink(&target, TapeFormat::RAW, false).err().unwrap();
    assert!(matches!(&error, TapeError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
    let mut writer = bench.sink(&target, TapeFormat::RAW, true).unwrap();
    block_on(writer.write(batch(0, 1))).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    block_on(writer.finish()).unwrap();
    assert_eq!(fs::read(&target).unwrap(), dump(PAGE_SIZE));
}

#[test]
fn a_file_that_appeared_meanwhile_is_not_replaced() {
    let bench = Bench::new();
    let target = bench.path("target");
    let mut writer = bench.sink(&target, TapeFormat::RAW, false).unwrap();
    block_on(writer.write(batch(0, 1))).unwrap();
    fs::write(&target, b"somebody else's").unwrap();
    assert!(block_on(writer.finish()).is_err());
    drop(writer);
    assert_eq!(bench.names(), ["target"]);
    assert_eq!(fs::read(&target).unwrap(), b"somebody else's");
}

#[test]
fn a_symbolic_link_stays_one() {
    let bench = Bench::new();
    let target = bench.file("target", b"old");
    let link = bench.path("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut writer = bench.sink(&link, TapeFormat::RAW, true).unwrap();
    block_on(async {
        writer.write(batch(0, 1)).await.unwrap();
        writer.finish().await.unwrap();
    });
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&target).unwrap(), dump(PAGE_SIZE));
}

#[test]
fn a_reader_that_goes_away_is_a_clean_error() {
    let bench = Bench::new();
    let fifo = bench.fifo("out");
    let error = thread::scope(|scope| {
        scope.spawn(|| File::open(&fifo).unwrap().read_exact(&mut [0; 10]).unwrap());
        let mut writer = bench.sink(&fifo, TapeFormat::RAW, false).unwrap();
        block_on(async {
            for segment in 0..4u64 {
                writer.write(batch(segment * SEGMENT_PAGES as u64, SEGMENT_PAGES)).await?;
            }
            writer.finish().await
        })
    });
    let Err(TapeError::Io { source, action: "write", .. }) = error else { panic!("{error:?}") };
    assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_stuck_pipe_blocks_neither_workers_nor_the_end() {
    let bench = Bench::new();
    let fifo = bench.fifo("in");
    let mut writer_end = None;
    let mut reader = thread::scope(|scope| {
        let open = scope.spawn(|| File::create(&fifo).unwrap());
        let reader = block_on(open_source(&fifo, SourceFormat::Raw, &bench.workers)).unwrap();
        writer_end = Some(open.join().unwrap());
        reader
    });
    // Nobody writes: the first poll leaves a read hanging on the pipe's own thread.
    assert!(futures::FutureExt::now_or_never(reader.next(&bench.buffers)).is_none());
    assert_eq!(block_on(bench.workers.submit_io(|| 1)), Ok(1));
    drop(reader);
    // Either the hanging read takes it, or it had not begun and nobody is left to.
    let _ = writer_end.unwrap().write_all(b"too late");
}

#[test]
fn flat_dumps_refuse_items_out_of_order() {
    let bench = Bench::new();
    let cases: [Vec<TapeItem>; 4] = [
        vec![batch(1, 1)],
        vec![batch(0, 2), batch(1, 1)],
        vec![TapeItem::Frame(vec![0]), batch(0, 1)],
        vec![TapeItem::Frame(vec![0; 4000]), TapeItem::Frame(vec![0; 96])],
    ];
    for items in cases {
        let mut writer = bench.sink(&bench.path("target"), TapeFormat::RAW, false).unwrap();
        let result = block_on(async {
            for item in items {
                writer.write(item).await?;
            }
            writer.finish().await
        });
        assert!(matches!(result, Err(TapeError::Inconsistent(_))), "{result:?}");
    }
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn a_batch_whose_bytes_do_not_match_its_pfns_is_refused() {
    let bench = Bench::new();
    for format in [TapeFormat::RAW, TapeFormat::XEN_XL] {
        let mut writer = bench.sink(&bench.path("target"), format, false).unwrap();
        let pages = Payload::Bytes(Buffer::unpooled(vec![0; PAGE_SIZE]));
        let item = TapeItem::Batch(Batch { pfns: Pfns::Run { first: 0, count: 2 }, pages });
        assert!(matches!(block_on(writer.write(item)), Err(TapeError::Inconsistent(_))));
    }
}

#[test]
fn an_unknown_tape_format_is_refused() {
    let bench = Bench::new();
    let error = bench.sink(&bench.path("target"), TapeFormat(77), false).err().unwrap();
    assert!(error.to_string().contains("newer ComIO"), "{error}");
}
