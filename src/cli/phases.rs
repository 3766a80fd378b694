//! The phases of a measurement or a comparison, for commands that print rows.

use super::progress::{line, style};
use super::terminal::{is_quiet, note};
use super::text::one_line;
use indicatif::ProgressBar;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use zimage::Stage;

/// Time between two lines about one phase where standard error is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// A line that is drawn anew at a terminal; elsewhere a line for each phase, and further ones while
/// it lasts.
pub(super) struct Phases {
    line: ProgressBar,
    in_lines: bool,
    phase: String,
    last: Instant,
}

impl Phases {
    pub(super) fn new() -> Self {
        let line = line();
        let in_lines = !is_quiet() && !std::io::stderr().is_terminal();
        Self { line, in_lines, phase: String::new(), last: Instant::now() }
    }

    /// Begins a phase.
    pub(super) fn begin(&mut self, phase: &str) {
        style(&self.line, "{spinner} {msg} · {elapsed}");
        self.line.reset_elapsed();
        self.line.set_message(one_line(phase));
        if self.in_lines && self.phase != phase {
            note(phase);
            self.last = Instant::now();
        }
        phase.clone_into(&mut self.phase);
    }

    /// Takes the phase on to `stage`.
    pub(super) fn stage(&mut self, stage: Stage) {
        let Some(words) = words(stage) else { return };
        let text = format!("{}: {words}", self.phase);
        if self.in_lines && self.last.elapsed() >= BETWEEN_LINES {
            note(&text);
            self.last = Instant::now();
        }
        self.line.set_message(one_line(&text));
    }

    /// Prints above the line.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.line.suspend(print)
    }

    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }
}

fn words(stage: Stage) -> Option<String> {
    match stage {
        // Random weights have no files.
        Stage::Load { done, of: 0 } => Some(format!("{:.1} GB made", done as f64 / 1e9)),
        Stage::Load { done, of } => Some(format!("{:.1} of {:.1} GB read", done as f64 / 1e9, of as f64 / 1e9)),
        Stage::TextEncoder => Some("reading the prompt".to_owned()),
        Stage::Step { done, of } => Some(format!("step {done}/{of}")),
        Stage::Vae => Some("decoding".to_owned()),
        // A stage that is added later goes without words.
        _ => None,
    }
}
