//! Everything that can go wrong, one variant a kind, each printed as one sentence that says what to do next.

use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. The text is for the person who asked; [`Error::kind`] is for programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be served as it stands: a size, a count or a number out of its range.
    #[error("{0}")]
    Request(String),
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there, but it is not what it must be: broken JSON, a hostile header, a missing key.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what was expected instead.
        problem: String,
    },
    /// One tensor of a file is missing, misshapen or of a type that is not supported.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file that should hold the tensor.
        path: PathBuf,
        /// The tensor's name as the file spells it.
        tensor: String,
        /// What the model's configuration asks for.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A network of a model returned infinite values or NaN, so there is no picture.
    #[error("{}", non_finite(network, path, tensor.as_deref()))]
    NonFinite {
        /// The network, in words.
        network: &'static str,
        /// The file of the tensor to blame, or the folder of the network's weights.
        path: PathBuf,
        /// The first tensor of the weights that holds such a value; `None` when all of them are finite.
        tensor: Option<String>,
    },
    /// A picture has infinite values or NaN; a model's pipeline says [`Error::NonFinite`] instead.
    #[error("the picture has infinite values or NaN; please report the model and the device")]
    NonFinitePicture,
    /// A verb was given tensors that do not fit together; a fault of the calling code, not of the user.
    #[error("{verb}: {problem}")]
    Shape {
        /// The verb.
        verb: &'static str,
        /// What does not fit.
        problem: String,
    },
    /// The device refused or failed.
    #[error("{0}")]
    Device(String),
    /// The device has no room for a tensor: too little memory, or none in one piece of that size. Something smaller may
    /// fit, and the device goes on.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device went away: what was loaded onto it is gone as well.
    #[error("{0}")]
    Lost(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// The coarse class of an [`Error`], for exit codes and for programs that react to it.
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
    /// A fault of this program.
    Internal,
}

impl Error {
    /// The class this error belongs to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Request(_) => ErrorKind::Request,
            Error::Io { .. } | Error::File { .. } | Error::Tensor { .. } | Error::NonFinite { tensor: Some(_), .. } => {
                ErrorKind::Files
            }
            Error::NonFinite { tensor: None, .. }
            | Error::NonFinitePicture
            | Error::Device(_)
            | Error::OutOfMemory(_)
            | Error::Lost(_) => ErrorKind::Device,
            Error::Cancelled => ErrorKind::Cancelled,
            Error::Shape { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn shape(verb: &'static str, problem: impl Into<String>) -> Self {
        Error::Shape { verb, problem: problem.into() }
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
