//! How far several guests are together, and when they may all be done.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use comio_core::engine::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use crate::output;
use crate::session::Session;

/// How often the line on a terminal changes.
const EVERY: Duration = Duration::from_millis(500);
/// How often a line is written where there is no terminal, as in systemd's journal.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// The progress of several guests.
pub(crate) struct Total {
    parts: Vec<Part>,
    started: Instant,
}

struct Part {
    /// What its guest is beside the others: its size, in any unit.
    weight: u64,
    progress: Arc<Progress>,
    over: AtomicBool,
}

impl Total {
    /// Of guests with a weight, each saved or restored by a session.
    #[expect(clippy::disallowed_methods, reason = "the user is told how long it may take")]
    pub(crate) fn of<'a>(guests: impl Iterator<Item = (u64, &'a Session)>) -> Arc<Self> {
        let parts = guests.map(|(weight, session)| Part {
            weight: weight.max(1),
            progress: Arc::clone(&session.progress),
            over: AtomicBool::new(false),
        });
        Arc::new(Self { parts: parts.collect(), started: Instant::now() })
    }

    /// Nothing more is done for that guest.
    pub(crate) fn is_over(&self, number: usize) {
        self.parts[number].over.store(true, Ordering::Relaxed);
    }

    fn words(&self, took: Duration) -> String {
        let over = self.parts.iter().filter(|part| part.over.load(Ordering::Relaxed)).count();
        let done = self.share_done();
        let left = if done > 0.0 && done < 1.0 {
            format!(", about {:.0} s left", took.as_secs_f64() * (1.0 - done) / done)
        } else {
            String::new()
        };
        format!("{over} of {} guests, {:.0} %{left}", self.parts.len(), done * 100.0)
    }

    /// From 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn share_done(&self) -> f64 {
        let all: u64 = self.parts.iter().map(|part| part.weight).sum();
        let done: f64 = self.parts.iter().map(|part| part.weight as f64 * part.share_done()).sum();
        if all == 0 { 1.0 } else { done / all as f64 }
    }
}

impl Part {
    fn share_done(&self) -> f64 {
        if self.over.load(Ordering::Relaxed) {
            return 1.0;
        }
        // What xl says of a guest's size is not exact.
        crate::commands::share(self.progress.guest_bytes(), self.progress.guest_bytes_total()).min(1.0)
    }
}

/// Shows a total until it is dropped.
pub(crate) struct TotalLine {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl TotalLine {
    #[expect(clippy::disallowed_methods, reason = "one task that draws, ended with the line")]
    pub(crate) fn start(total: &Arc<Total>, lines: &MultiProgress) -> Self {
        let bar = lines.add(ProgressBar::no_length());
        bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        let on_terminal = std::io::stderr().is_terminal();
        let (drawn, total) = (bar.clone(), Arc::clone(total));
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(if on_terminal { EVERY } else { TOLD_EVERY }).await;
                let words = total.words(total.started.elapsed());
                if on_terminal {
                    drawn.set_message(words);
                } else {
                    output::say(&format!("comio: {words}"));
                }
            }
        });
        Self { bar, task }
    }
}

impl Drop for TotalLine {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::args::Resources;

    #[test]
    fn guests_count_by_their_size() {
        let session = Session::new(&Resources { workers: None, memory: None }).expect("starts");
        let total = Total::of([(3072, &session), (1024, &session)].into_iter());
        let took = Duration::from_secs(30);
        assert_eq!(total.words(took), "0 of 2 guests, 0 %");
        total.is_over(0);
        assert_eq!(total.words(took), "1 of 2 guests, 75 %, about 10 s left");
        total.is_over(1);
        assert_eq!(total.words(took), "2 of 2 guests, 100 %");
    }
}
