//! The progress line, on a terminal only; and word of a storage that keeps the user waiting.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use comio_core::engine::{Phase, Progress};
use comio_core::storage::Storage;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(200);

/// Room for the lines of operations at once: on a terminal, or nowhere.
pub(crate) fn lines() -> MultiProgress {
    let on_terminal = std::io::stderr().is_terminal();
    let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    MultiProgress::with_draw_target(target)
}

/// Shows how far an operation is until it is finished or dropped.
pub(crate) struct ProgressLine {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl ProgressLine {
    /// Begins to show `progress`, and why nothing moves when one of `storages` knows. Without a
    /// terminal only the latter is told, a line each time it begins.
    #[expect(clippy::disallowed_methods, reason = "one task that draws, ended with the line")]
    pub(crate) fn start(
        title: &str,
        progress: &Arc<Progress>,
        storages: Vec<Arc<dyn Storage>>,
        lines: &MultiProgress,
    ) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        let bar = lines.add(ProgressBar::no_length());
        bar.set_style(style(false));
        bar.set_prefix(title.to_owned());
        let (drawn, progress) = (bar.clone(), Arc::clone(progress));
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(EVERY);
            let mut told = false;
            loop {
                tick.tick().await;
                let waiting = storages.iter().find_map(|storage| storage.waiting());
                if let Some(why) = waiting.as_ref().filter(|_| !on_terminal && !told) {
                    crate::output::say(&format!("comio: waiting: {why}"));
                }
                told = waiting.is_some();
                draw(&drawn, &progress, waiting);
            }
        });
        Self { bar, task }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {msg}"
    } else {
        "{prefix} {spinner} {bytes} {bytes_per_sec} {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn draw(bar: &ProgressBar, progress: &Progress, waiting: Option<String>) {
    let total = progress.guest_bytes_total();
    if total > 0 && bar.length() != Some(total) {
        bar.set_style(style(true));
        bar.set_length(total);
    }
    bar.set_position(progress.guest_bytes());
    let doing = match progress.phase() {
        Phase::Moving | Phase::Done => "",
        Phase::Syncing => "making it durable",
        Phase::Checking => "checking",
        Phase::Publishing => "publishing",
        Phase::Removing => "removing what was written",
    };
    bar.set_message(waiting.map_or_else(|| doing.to_owned(), |why| format!("waiting: {why}")));
}
