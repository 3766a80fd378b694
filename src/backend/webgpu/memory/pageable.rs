//! Weights in pageable memory: the pieces as they were read, which the queue writes to the device
//! at each use.
//!
//! A piece of a mapped file takes no memory until then.

use crate::backend::gpu::lock;
use bytes::Bytes;
use std::fmt;
use std::sync::Mutex;

/// Bytes that rows with padding are gathered in before the queue takes them.
const GATHERED: usize = 1 << 20;

/// The bytes of a piece of a matrix.
pub(crate) struct Pageable {
    bytes: u64,
    parts: Mutex<Vec<Part>>,
}

/// Rows that follow one another in the file.
struct Part {
    /// The first byte in the piece, a multiple of 4.
    at: u64,
    rows: Bytes,
    /// Bytes of a row, and from one row to the next in the piece.
    row: usize,
    stride: usize,
}

impl Pageable {
    /// A piece of `bytes` bytes, without any so far.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, parts: Mutex::default() }
    }

    /// Its size on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds rows of `row` bytes, which are `stride` bytes apart in the piece from its byte `at` on.
    /// If `stride` is larger, a multiple of 4, zeros follow each row.
    pub(crate) fn push(&self, at: usize, rows: Bytes, row: usize, stride: usize) {
        lock(&self.parts).push(Part { at: at as u64, rows, row, stride });
    }

    /// Has the queue write all bytes to `to`, from its byte `offset` on, before the next
    /// submission.
    pub(crate) fn write(&self, queue: &wgpu::Queue, to: &wgpu::Buffer, offset: u64) {
        for Part { at, rows, row, stride } in lock(&self.parts).iter() {
            let at = offset + at;
            if row == stride {
                write_words(queue, to, at, rows);
                continue;
            }
            let count = (GATHERED / stride).max(1);
            for (i, rows) in rows.chunks(count * row).enumerate() {
                let mut padded = vec![0; rows.len() / row * stride];
                for (to, from) in padded.chunks_exact_mut(*stride).zip(rows.chunks_exact(*row)) {
                    to[..*row].copy_from_slice(from);
                }
                queue.write_buffer(to, at + (i * count * stride) as u64, &padded);
            }
        }
    }
}

/// Has the queue write `bytes` at byte `at` of a buffer, followed by zeros up to the next multiple
/// of 4.
pub(crate) fn write_words(queue: &wgpu::Queue, to: &wgpu::Buffer, at: u64, bytes: &[u8]) {
    let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
    queue.write_buffer(to, at, words);
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        queue.write_buffer(to, at + words.len() as u64, &last);
    }
}

impl fmt::Debug for Pageable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pageable({} bytes)", self.bytes)
    }
}
