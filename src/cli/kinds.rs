//! The use of a file with weights: the flag of `generate` that takes it.

use std::path::PathBuf;
use zimage::weights::{FileInfo, Kind, LoraFor, Part, inspect};
use zimage::{Error, Result};

/// The flags that take a file of this kind; `None` for one that nothing takes.
pub(super) fn flag(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Lora(LoraFor::Transformer | LoraFor::TextEncoder | LoraFor::Both) => Some("--lora"),
        _ => match kind.parts() {
            [] => None,
            [Part::TextEncoder] => Some("--text-encoder"),
            [Part::Vae] => Some("--vae"),
            parts if parts.contains(&Part::Transformer) => Some("--model"),
            _ => Some("--text-encoder and --vae"),
        },
    }
}

/// The flags that take a file; `None` for a file that cannot be used.
pub(super) fn flag_of(info: &FileInfo) -> Option<&'static str> {
    flag(&info.kind).filter(|_| info.problem.is_none())
}

/// A file's kind and its flag, or the reason why it has none, in a line.
pub(super) fn use_of(found: &Result<FileInfo>) -> String {
    match found {
        Ok(FileInfo { kind, problem: Some(problem), .. }) if flag(kind).is_some() => {
            format!("none: {}; {}", kind.name(), without_path(problem))
        }
        Ok(info) => match flag_of(info) {
            Some(flag) => format!("{}: {flag}", info.kind.name()),
            None => format!("none: {}", info.kind.name()),
        },
        Err(error) => format!("none: {}", without_path(error)),
    }
}

/// An error about a file that may be at the wrong flag, with the right one. `given` are the flags
/// and the paths at them.
pub(super) fn advise(error: Error, given: &[(&str, &PathBuf)]) -> Error {
    let Error::File { path, problem } = error else { return error };
    let wrong: Vec<&str> = given.iter().filter(|(_, at)| **at == path).map(|(flag, _)| *flag).collect();
    let kind = match wrong.is_empty() || path.is_dir() {
        true => None,
        false => pollster::block_on(inspect(&path)).ok().map(|info| info.kind),
    };
    let problem = match kind.as_ref().and_then(flag).filter(|right| !wrong.contains(right)) {
        Some(right) => format!("{problem}; give it with {right}"),
        None => problem,
    };
    Error::File { path, problem }
}

/// An error about a file whose path is on the same line.
pub(super) fn without_path(error: &Error) -> String {
    match error {
        Error::File { problem, .. } => problem.clone(),
        Error::Tensor { tensor, expected, found, .. } => {
            format!("tensor {tensor}: expected {expected}, found {found}")
        }
        error => error.to_string(),
    }
}
