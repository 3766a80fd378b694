//! Remote files: the questions that a model's folder asks about them.

use crate::future::BoxFuture;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;

/// Files that are read part by part from somewhere else: from a server, from what a browser keeps.
/// Paths are relative to the model's folder, with `/` between their parts.
pub trait RemoteFiles: fmt::Debug + Send + Sync {
    /// The length of a file in bytes; `None` when no file has this path.
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<u64>>;

    /// The bytes of a file in `range`, which lies inside it.
    fn read<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Bytes>;

    /// The approximate size in bytes of a piece of a tensor. Some pieces are in memory at a time,
    /// and each costs a round trip: larger ones suit a slow connection, smaller ones little memory.
    fn piece(&self) -> u64 {
        8 << 20
    }

    /// The names of the files in a folder, for messages that say what was found; empty where they
    /// cannot be listed.
    fn list<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Vec<String>>;
}
