//! Errors: one variant a cause, each printed as one sentence.
//!
//! A sentence says what was expected and what was found, with its numbers. It names no flag and no
//! button: the command line and the page know which of theirs may help, and add it by the variant.

use std::path::{Path, PathBuf};

/// The result of every call in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error. Its text is for the user; [`Error::kind`] is for programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request must change: a size, a count or a number is out of its range.
    #[error("{0}")]
    Request(String),
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file exists but is not valid: broken JSON, a hostile header, a missing key.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The fault, and what was expected instead.
        problem: String,
    },
    /// One tensor of a file is missing, has another shape, or has a type that is not supported.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file that should hold the tensor.
        path: PathBuf,
        /// The tensor's name as the file spells it.
        tensor: String,
        /// The model's configuration's demand.
        expected: String,
        /// The file's content.
        found: String,
    },
    /// A part of a model is in none of the places that it may come from.
    #[error("{}: there is no {part} for this model", model.display())]
    MissingPart {
        /// The part, such as `text encoder`.
        part: &'static str,
        /// The model's file or folder.
        model: PathBuf,
    },
    /// A hub such as huggingface.co did not deliver a repository or one of its files.
    #[error("{name}: {problem}")]
    Hub {
        /// The repository or the file in it: `org/name@revision/path`.
        name: String,
        /// The class of the failure.
        cause: HubCause,
        /// The fault with its URL, and what would work.
        problem: String,
    },
    /// A network of a model returned infinite values or NaN, so there is no picture.
    #[error("{}", non_finite(network, path, tensor.as_deref()))]
    NonFinite {
        /// The network's name.
        network: &'static str,
        /// The file of the tensor to blame, or the folder of the network's weights.
        path: PathBuf,
        /// The first tensor of the weights that holds such a value; `None` when all of them are
        /// finite.
        tensor: Option<String>,
    },
    /// An image has infinite values or NaN. A model's pipeline returns [`Error::NonFinite`]
    /// instead.
    #[error("the picture has infinite values or NaN; please report the model and the device")]
    NonFinitePicture,
    /// The tensors given to an op do not fit together: a bug of the calling code, not the user's
    /// error.
    #[error("{op}: {problem}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The sizes or types that do not fit.
        problem: String,
    },
    /// An invariant of this crate does not hold: a bug of ours.
    #[error("{0} (a bug of zimage; please report it)")]
    Internal(String),
    /// This program was built without the feature `embedded-model`.
    #[error("this program was built without the embedded model")]
    NoEmbeddedModel,
    /// The device refused or failed.
    #[error("{0}")]
    Device(String),
    /// Memory ran out, or an allocation is larger than the device allows. A smaller one may fit:
    /// the device stays usable.
    #[error("{problem}")]
    OutOfMemory {
        /// The memory that ran out.
        memory: MemoryKind,
        /// The bytes asked for and, where they are known, those that are free or allowed.
        problem: String,
    },
    /// The device was lost, and with it everything that was loaded onto it.
    #[error("{0}")]
    Lost(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// The class of an [`Error`], for exit codes and for programs that react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request must change.
    Request,
    /// The model's files, or the place to write to, must change.
    Files,
    /// The device cannot do it.
    Device,
    /// The caller asked to stop.
    Cancelled,
    /// A bug of this program.
    Internal,
}

/// The class of a failure in [`Error::Hub`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubCause {
    /// The network may not be used, and the cache lacks a file.
    Offline,
    /// The connection could not be made, or broke more often than it is tried.
    Connection,
    /// The hub refused with this HTTP status.
    Status(u16),
    /// An answer is not what the hub promised: a wrong size or hash, broken JSON, a hostile name.
    Invalid,
    /// The repository has no such file, or none that this program reads.
    Missing,
}

/// The memory that ran out in [`Error::OutOfMemory`]. It decides what takes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryKind {
    /// The device's, or the host's that the device reads, during an upload: of weights, nearly
    /// always.
    Weights,
    /// The device's, for a result: of an activation, nearly always.
    Activations,
    /// A single buffer, which would be larger than the device allows.
    Buffer,
    /// The host's.
    Host,
}

impl Error {
    /// The class this error belongs to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Request(_) | Error::NoEmbeddedModel => ErrorKind::Request,
            Error::Io { .. }
            | Error::File { .. }
            | Error::Tensor { .. }
            | Error::MissingPart { .. }
            | Error::Hub { .. }
            | Error::NonFinite { tensor: Some(_), .. } => ErrorKind::Files,
            Error::NonFinite { tensor: None, .. }
            | Error::NonFinitePicture
            | Error::Device(_)
            | Error::OutOfMemory { .. }
            | Error::Lost(_) => ErrorKind::Device,
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Shape { .. } | Error::Internal(_) => ErrorKind::Internal,
        }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn shape(op: &'static str, problem: impl Into<String>) -> Self {
        Error::Shape { op, problem: problem.into() }
    }

    pub(crate) fn internal(problem: impl Into<String>) -> Self {
        Error::Internal(problem.into())
    }

    pub(crate) fn out_of_memory(memory: MemoryKind, problem: impl Into<String>) -> Self {
        Error::OutOfMemory { memory, problem: problem.into() }
    }
}

/// The sentence of [`Error::NonFinite`].
fn non_finite(network: &str, path: &Path, tensor: Option<&str>) -> String {
    let path = path.display();
    match tensor {
        Some(tensor) => format!(
            "{path}: tensor {tensor}: expected finite values, found infinity or NaN, with which the {network} computes no \
             picture: download the file again, or repeat the merge or the conversion that made it"
        ),
        None => format!(
            "{path}: the {network} returned infinite values or NaN although its weights are finite, so it overflowed: \
             please report the model and the device"
        ),
    }
}

/// Text from a file made fit for a one-line message: control characters escaped, long text cut. A
/// hostile name would otherwise fill the terminal.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 160;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("layers.0.weight"), "layers.0.weight");
        assert_eq!(excerpt("a\n\u{1b}[31mb"), "a\\n\\u{1b}[31mb");
        let long = excerpt(&"é".repeat(1_000_000));
        assert_eq!(long.chars().count(), 161);
        assert!(long.ends_with('…'));
    }
}
