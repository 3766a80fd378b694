//! Both streams: data goes to standard output, words for the person at the terminal to standard
//! error.

use super::text::{escape_json, harmless, one_line};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use zimage::{Error, Result};

/// Whether the person asked for silence: errors are still printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Leaves out everything on standard error that is no error, from now on.
pub(super) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether [`be_quiet`] was called.
pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A line for the person at the terminal.
pub(super) fn note(line: &str) {
    if !is_quiet() {
        write_line(line);
    }
}

fn write_line(line: &str) {
    // One write: the lines of processes that share a standard error do not mix.
    let line = format!("{}\n", one_line(line));
    // Nobody reads a standard error that is closed.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// A command that ended early.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// The class of the error, for scripts: request, files, device, cancelled or internal.
    pub kind: &'static str,
    pub message: String,
    pub exit_code: u8,
    /// Pictures that were written before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

impl Failure {
    /// Prints the error as a line, and with `json` also as a document on standard output.
    pub(super) fn print(&self, json: bool) -> ExitCode {
        for file in &self.kept {
            note(&format!("kept {file}"));
        }
        write_line(&format!("error: {}", self.message));
        if json {
            // The sentence above is the same report; a standard output that takes nothing changes
            // nothing about it.
            let _ = print_json(&serde_json::json!({"error": self}));
        }
        ExitCode::from(self.exit_code)
    }
}

/// Prints text to standard output. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<()> {
    write_out(&harmless(text))
}

/// Prints one JSON document.
pub(super) fn print_json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document).map_err(|error| stdout_error(error.into()))?;
    write_out(&(escape_json(&text) + "\n"))
}

fn write_out(text: &str) -> Result<()> {
    super::streams::check_stdout()?;
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(stdout_error(error)),
        _ => Ok(()),
    }
}

pub(super) fn stdout_error(source: io::Error) -> Error {
    Error::Io { path: Path::new("standard output").to_owned(), source }
}

/// Names and values in two columns.
pub(super) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}
