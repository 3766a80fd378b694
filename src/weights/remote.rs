//! Remote files: the interface that a model's folder needs.

use crate::future::BoxFuture;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;

/// Files that are read part by part from a remote source, such as a server or a browser's storage.
/// Paths are relative to the model's folder and separated by `/`.
pub trait RemoteFiles: fmt::Debug + Send + Sync {
    /// The length of a file in bytes; `None` if no file has this path.
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<u64>>;

    /// The bytes of a file in `range`, which is inside the file.
    fn read<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Bytes>;

    /// The approximate bytes per piece of a tensor. Several pieces are in memory at a time, and
    /// each costs a round trip: larger pieces suit a slow connection, smaller ones little memory.
    fn piece(&self) -> u64 {
        8 << 20
    }

    /// The names of the files in a folder, for messages that list them; empty if they cannot be
    /// listed.
    fn list<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Vec<String>>;
}
