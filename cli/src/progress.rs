//! The progress line, on a terminal only.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use comio_core::engine::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(200);

/// Shows how far an operation is until it is finished or dropped.
pub(crate) struct ProgressLine {
    shown: Option<(ProgressBar, JoinHandle<()>)>,
}

impl ProgressLine {
    /// Begins to show `progress`, if stderr is a terminal.
    #[expect(clippy::disallowed_methods, reason = "one task that draws, ended with the line")]
    pub(crate) fn start(title: &str, progress: &Arc<Progress>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { shown: None };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(false));
        bar.set_prefix(title.to_owned());
        let (drawn, progress) = (bar.clone(), Arc::clone(progress));
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(EVERY);
            loop {
                tick.tick().await;
                draw(&drawn, &progress);
            }
        });
        Self { shown: Some((bar, task)) }
    }

    /// Removes the line.
    pub(crate) fn finish(mut self) {
        self.clear();
    }

    fn clear(&mut self) {
        if let Some((bar, task)) = self.shown.take() {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
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

fn draw(bar: &ProgressBar, progress: &Progress) {
    let total = progress.guest_bytes_total();
    if total > 0 && bar.length() != Some(total) {
        bar.set_style(style(true));
        bar.set_length(total);
    }
    bar.set_position(progress.guest_bytes());
    bar.set_message(match progress.phase() {
        Phase::Moving | Phase::Done => "",
        Phase::Syncing => "making it durable",
        Phase::Checking => "checking",
        Phase::Publishing => "publishing",
    });
}
