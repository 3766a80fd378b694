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

/// Rows of `columns` elements from rows of `row` bytes. `decode` receives the index of the first of
/// at most `count` rows, their bytes and their elements, and sets every element. All threads share
/// the rows.
///
/// # Errors
/// The first error of `decode`.
pub(super) fn in_blocks<T: Pod + Send, E: Send>(
    columns: usize,
    row: usize,
    count: usize,
    bytes: &[u8],
    decode: impl Fn(usize, &[u8], &mut [T]) -> Result<(), E> + Sync,
) -> Result<Bytes, E> {
    if row == 0 {
        return Ok(Bytes::new());
    }
    let elements = bytes.len() / row * columns;
    let len = elements * size_of::<T>();
    let words = buffer(len.div_ceil(size_of::<u32>()));
    let mut decoded = Decoded { words, bytes: len };
    let out = &mut bytemuck::cast_slice_mut::<u32, T>(&mut decoded.words)[..elements];
    let decode = |(i, (bytes, out)): (usize, (&[u8], &mut [T]))| decode(i * count, bytes, out);
    #[cfg(not(target_family = "wasm"))]
    {
        use rayon::prelude::*;
        bytes.par_chunks(row * count).zip(out.par_chunks_mut(columns * count)).enumerate().try_for_each(decode)?;
    }
    #[cfg(target_family = "wasm")]
    {
        bytes.chunks(row * count).zip(out.chunks_mut(columns * count)).enumerate().try_for_each(decode)?;
    }
    Ok(Bytes::from_owner(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn buffers_are_used_again() {
        let halves = |count: usize, rows: usize, value: u16| {
            let bytes = vec![1; count];
            let decode = move |first, _: &[u8], out: &mut [u16]| {
                out.iter_mut().zip(first..).for_each(|(out, i)| *out = value + i as u16);
                Ok::<(), Infallible>(())
            };
            let Ok(decoded) = in_blocks(1, 1, rows, &bytes, decode);
            decoded
        };
        for (count, rows) in [(5, 1), (3, 2), (8, 3), (1, 4)] {
            for value in [7, 300] {
                let decoded = halves(count, rows, value);
                let expected: Vec<u8> = (0..count).flat_map(|i| (value + i as u16).to_le_bytes()).collect();
                assert_eq!(decoded, expected);
            }
        }
        let Ok(none) = in_blocks(4, 0, 1, &[], |_, _, _: &mut [f32]| -> Result<(), Infallible> { unreachable!() });
        assert!(none.is_empty());
    }

    #[test]
    fn an_error_of_a_block_ends_decoding() {
        let decode = |first, _: &[u8], _: &mut [u16]| if first == 4 { Err(first) } else { Ok(()) };
        assert_eq!(in_blocks(2, 1, 2, &[0; 7], decode), Err(4));
    }
}
