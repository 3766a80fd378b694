//! Decoded rows: elements in memory that is used again for the next rows. Fresh memory of this size
//! comes from the system, page by page, which takes longer than decoding.

use crate::sync::lock;
use bytemuck::Pod;
use bytes::Bytes;
use std::sync::Mutex;

/// The most buffers that wait for their next use, and the words of the largest.
const MOST_SPARE: usize = 3;
const LARGEST_SPARE: usize = 8 << 20;

static SPARE: Mutex<Vec<Vec<u32>>> = Mutex::new(Vec::new());

/// Elements in `bytes` bytes of a buffer.
struct Decoded {
    words: Vec<u32>,
    bytes: usize,
}

impl AsRef<[u8]> for Decoded {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.bytes]
    }
}

impl Drop for Decoded {
    fn drop(&mut self) {
        let mut spare = lock(&SPARE);
        if spare.len() < MOST_SPARE && self.words.capacity() <= LARGEST_SPARE {
            spare.push(std::mem::take(&mut self.words));
        }
    }
}

/// `words` words with any contents.
fn buffer(words: usize) -> Vec<u32> {
    let mut buffer = lock(&SPARE).pop().unwrap_or_default();
    buffer.resize(words, 0);
    buffer
}

/// Rows of `columns` elements from rows of `row` bytes, each by `decode`, which receives the row's
/// index, its bytes and its elements, and sets every element. All threads share the rows.
pub(super) fn each_row<T: Pod + Send>(
    columns: usize,
    row: usize,
    bytes: &[u8],
    decode: impl Fn(usize, &[u8], &mut [T]) + Sync,
) -> Bytes {
    if row == 0 {
        return Bytes::new();
    }
    let elements = bytes.len() / row * columns;
    let len = elements * size_of::<T>();
    let mut words = buffer(len.div_ceil(size_of::<u32>()));
    let out = &mut bytemuck::cast_slice_mut::<u32, T>(&mut words)[..elements];
    #[cfg(not(target_family = "wasm"))]
    {
        use rayon::prelude::*;
        let rows = bytes.par_chunks_exact(row).zip(out.par_chunks_exact_mut(columns));
        rows.enumerate().for_each(|(i, (bytes, out))| decode(i, bytes, out));
    }
    #[cfg(target_family = "wasm")]
    {
        let rows = bytes.chunks_exact(row).zip(out.chunks_exact_mut(columns));
        rows.enumerate().for_each(|(i, (bytes, out))| decode(i, bytes, out));
    }
    Bytes::from_owner(Decoded { words, bytes: len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let halves = |count: usize, value: u16| {
            let bytes = vec![1; count];
            each_row(1, 1, &bytes, move |i, _, out: &mut [u16]| out[0] = value + i as u16)
        };
        for count in [5, 3, 8, 1] {
            for value in [7, 300] {
                let decoded = halves(count, value);
                let expected: Vec<u8> = (0..count).flat_map(|i| (value + i as u16).to_le_bytes()).collect();
                assert_eq!(decoded, expected);
            }
        }
        assert!(each_row(4, 0, &[], |_, _, _: &mut [f32]| unreachable!()).is_empty());
    }
}
