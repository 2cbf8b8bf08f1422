//! What a stock host's save takes beside the network: copying pages, and the compressors that
//! streams are piped through. The real tools are measured, on the traces' memory.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use comio_core::{PAGE_SIZE, SEGMENT_PAGES};
use comio_simulator::model::calibrate::Watch;
use comio_simulator::model::cost::{HypervisorCosts, PipeCosts};
use comio_simulator::model::sample::StreamSample;
use comio_simulator::scenario::Method;
use comio_simulator::trace::Trace;

/// Each measurement is repeated so often; the shortest time counts.
const ROUNDS: usize = 5;
/// Pages that are copied, and zero pages that are compressed: more than caches hold.
const PAGES: usize = 32 << 10;

/// The cost of a page that crosses from the kernel, and back, in calls of a batch: what a
/// hypervisor's copying is.
pub(super) fn copying(watch: Watch<'_>) -> anyhow::Result<HypervisorCosts> {
    let file = tempfile::tempfile().context("cannot create a temporary file")?;
    let mut batch = vec![0x5a; SEGMENT_PAGES * PAGE_SIZE];
    let (mut read, mut write) = (Duration::MAX, Duration::MAX);
    // What comes first makes the file.
    for _ in 0..=ROUNDS {
        let start = watch();
        for offset in offsets(batch.len()) {
            file.write_all_at(&batch, offset).context("cannot write a temporary file")?;
        }
        let middle = watch();
        for offset in offsets(batch.len()) {
            file.read_exact_at(&mut batch, offset).context("cannot read a temporary file")?;
        }
        write = write.min(middle.saturating_sub(start));
        read = read.min(watch().saturating_sub(middle));
    }
    Ok(HypervisorCosts { read_ns: page_ns(read, PAGES), write_ns: page_ns(write, PAGES) })
}

fn offsets(step: usize) -> impl Iterator<Item = u64> {
    (0..PAGES * PAGE_SIZE).step_by(step).map(|offset| offset as u64)
}

/// The costs of the tool of `method`; `None` where it is not installed.
pub(super) fn tool(method: Method, traces: &[Trace], watch: Watch<'_>) -> anyhow::Result<Option<PipeCosts>> {
    let Some(tool) = method.tool().map(|name| Tool { name, watch }) else { return Ok(None) };
    if !tool.is_there()? {
        return Ok(None);
    }
    let place = tempfile::tempdir().context("cannot create a temporary directory")?;
    let path = |name: &str| place.path().join(name);
    let sample = StreamSample::new(traces, method);
    std::fs::write(path("pages"), &sample.memory).context("cannot write a temporary file")?;
    let zeros = File::create(path("zeros")).context("cannot create a temporary file")?;
    zeros.set_len((PAGES * PAGE_SIZE) as u64).context("cannot extend a temporary file")?;
    let pages = tool.there_and_back(&path("pages"), &path("pages.packed"))?;
    let zeros = tool.there_and_back(&path("zeros"), &path("zeros.packed"))?;
    let count = sample.memory.len() / PAGE_SIZE;
    Ok(Some(PipeCosts {
        compress_ns: page_ns(pages.compress, count),
        decompress_ns: page_ns(pages.decompress, count),
        zero_ns: page_ns((zeros.compress + zeros.decompress) / 2, PAGES),
        size_factor: size_factor(pages.packed_bytes, sample.coded_bytes),
    }))
}

struct Tool<'a> {
    name: &'static str,
    watch: Watch<'a>,
}

struct Times {
    compress: Duration,
    decompress: Duration,
    packed_bytes: u64,
}

impl Tool<'_> {
    /// Its arguments as a filter of one thread.
    fn compressing(&self) -> &'static [&'static str] {
        match self.name {
            "zstd" => &["-1", "--single-thread", "-c"],
            _ => &["-c"],
        }
    }

    fn is_there(&self) -> anyhow::Result<bool> {
        match Command::new(self.name).arg("--version").stdout(Stdio::null()).status() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot run {}", self.name)),
        }
    }

    /// Compresses a file into another and decompresses that.
    fn there_and_back(&self, file: &Path, packed: &Path) -> anyhow::Result<Times> {
        self.filter(self.compressing(), file, File::create(packed)?.into())?;
        let packed_bytes = std::fs::metadata(packed)?.len();
        let compress = self.shortest(self.compressing(), file)?;
        let decompress = self.shortest(&["-dc"], packed)?;
        Ok(Times { compress, decompress, packed_bytes })
    }

    fn shortest(&self, words: &[&str], input: &Path) -> anyhow::Result<Duration> {
        let mut shortest = Duration::MAX;
        for _ in 0..ROUNDS {
            let start = (self.watch)();
            self.filter(words, input, Stdio::null())?;
            shortest = shortest.min((self.watch)().saturating_sub(start));
        }
        Ok(shortest)
    }

    fn filter(&self, words: &[&str], input: &Path, output: Stdio) -> anyhow::Result<()> {
        let input = File::open(input).with_context(|| format!("cannot open {}", input.display()))?;
        let done = Command::new(self.name).args(words).stdin(input).stdout(output).status();
        let status = done.with_context(|| format!("cannot run {}", self.name))?;
        if !status.success() {
            bail!("{} {} failed: {status}", self.name, words.join(" "));
        }
        Ok(())
    }
}

/// Whole nanoseconds of a page: what is measured is not better than that.
#[expect(clippy::cast_precision_loss, reason = "counts of pages")]
fn page_ns(time: Duration, pages: usize) -> f64 {
    (time.as_secs_f64() * 1e9 / pages.max(1) as f64).round()
}

#[expect(clippy::cast_precision_loss, reason = "sizes of samples")]
fn size_factor(packed: u64, coded: u64) -> f64 {
    (packed as f64 / coded.max(1) as f64 * 1e3).round() / 1e3
}

#[cfg(test)]
mod test {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn tools_and_copying_are_measured() {
        let ticks = Cell::new(0);
        let watch = || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        };
        let copying = copying(&watch).unwrap();
        assert!(copying.read_ns > 0.0 && copying.write_ns > 0.0);
        let memory: Vec<u8> =
            (0..1u32 << 20).map(|number| number.wrapping_mul(40_503).to_le_bytes()[1]).collect();
        let traces = [Trace::new("t", memory).unwrap()];
        for method in [Method::PipeLz4, Method::PipeLzop, Method::PipeZstd] {
            // Whatever of them is installed.
            if let Some(costs) = tool(method, &traces, &watch).unwrap() {
                assert!(costs.compress_ns > 0.0 && costs.decompress_ns > 0.0 && costs.zero_ns > 0.0);
                assert!(costs.size_factor > 0.0, "{method}: {costs:?}");
            }
        }
        assert_eq!(tool(Method::Xen, &traces, &watch).unwrap(), None);
    }
}
