//! Files that are not on this machine: what a model's folder asks of whoever holds them.

use crate::future::Answer;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;

/// Files that are read part by part from somewhere else: from a server, from what a browser keeps. Paths are relative to
/// the model's folder, with `/` between their parts.
pub trait RemoteFiles: fmt::Debug + Send + Sync {
    /// The length of a file in bytes; `None` when there is none of this path.
    fn size<'a>(&'a self, path: &'a str) -> Answer<'a, Option<u64>>;

    /// The bytes of a file in `range`, which lies inside it.
    fn read<'a>(&'a self, path: &'a str, range: Range<u64>) -> Answer<'a, Bytes>;

    /// How many bytes of a tensor to ask for at once, about. Some such pieces are held at a time, and a read takes the way
    /// there and back once more for each: more where the way is long, fewer where memory is short.
    fn piece(&self) -> u64 {
        8 << 20
    }

    /// The names of the files in a folder, for messages that say what was found; empty where they cannot be listed.
    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>>;
}
