//! The progress line of a download.

use super::progress::{line, style};
use super::signals::Interrupt;
use super::terminal::note;
use indicatif::{DecimalBytes, ProgressBar};
use std::ops::ControlFlow;
use std::path::PathBuf;
use zimage::Result;
use zimage::weights::hub::{HubNews, HubProgress, OnProgress};

/// A line on standard error with the bytes of a download; where that is no terminal, a line for
/// each file.
struct Download {
    line: ProgressBar,
    interrupt: Interrupt,
    /// Whether the size of the download was shown.
    begun: bool,
}

/// Runs a download with a progress line. A signal asks it to stop.
pub(super) fn with_line(work: impl FnOnce(&mut OnProgress<'_>) -> Result<PathBuf>) -> Result<PathBuf> {
    let line = line();
    style(&line, "{spinner} {prefix} · {elapsed}");
    line.set_prefix("asking the hub");
    let interrupt = Interrupt::defer_work(line.clone(), "the download, which another run goes on with");
    let mut download = Download { line, interrupt, begun: false };
    let done = work(&mut |progress| download.update(progress));
    download.line.finish_and_clear();
    download.interrupt.release()?;
    done
}

impl Download {
    fn update(&mut self, progress: HubProgress<'_>) -> ControlFlow<()> {
        let HubProgress { done, of, news } = progress;
        // The index of a pipeline comes first, and would be a bar of a few bytes.
        const WORTH_A_BAR: u64 = 1 << 20;
        if of >= WORTH_A_BAR {
            if !std::mem::replace(&mut self.begun, true) {
                style(&self.line, "downloading {bytes} of {total_bytes} {wide_bar} {bytes_per_sec} · {eta} left");
                self.line.set_length(of);
                self.line.reset_eta();
                self.note_line(&format!("downloading {}", DecimalBytes(of)));
            }
            self.line.set_position(done);
        }
        match news {
            HubNews::Bytes => {}
            HubNews::File { path, size } => self.note_line(&format!("{path} · {}", DecimalBytes(size))),
            HubNews::Wait(reason) => self.line.suspend(|| note(reason)),
        }
        if self.interrupt.is_pressed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Prints a line where no bar is seen.
    fn note_line(&self, text: &str) {
        if self.line.is_hidden() {
            note(text);
        }
    }
}
