//! A picture or an activation in the host's memory.

use crate::error::{Error, Result};
use crate::reserve;
use crate::tensor::HostTensor;
use std::collections::VecDeque;
use std::ops::Range;

/// Channels-last rows `[1, height, W, C]`, which come from top to bottom in pieces. Pieces that
/// nothing reads any more are freed in the same order. A clone shares the pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    /// Each piece with its first row.
    pieces: VecDeque<(usize, HostTensor)>,
    height: usize,
}

impl Rows {
    /// All rows of `[1, H, W, C]`.
    pub(super) fn of(whole: HostTensor) -> Self {
        let mut rows = Self::default();
        rows.push(whole);
        rows
    }

    /// Adds rows `[1, n, W, C]` at the bottom.
    pub(super) fn push(&mut self, piece: HostTensor) {
        let first = self.height;
        self.height += piece.shape()[1];
        self.pieces.push_back((first, piece));
    }

    /// The number of rows that were added.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Pixels of a row, and channels of a pixel.
    pub(super) fn pixels(&self) -> [usize; 2] {
        self.pieces.front().map_or([0; 2], |(_, piece)| [piece.shape()[2], piece.shape()[3]])
    }

    /// A part of the rows, which are still there: a view if they lie in one piece, else a copy.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn rows(&self, range: Range<usize>) -> Result<HostTensor> {
        let parts: Vec<HostTensor> = self.parts(&range).collect();
        if let [part] = &parts[..]
            && part.shape()[1] == range.len()
        {
            return Ok(part.clone());
        }
        let bytes = parts.iter().map(|part| part.bytes().len()).sum();
        let mut joined = reserve::with_room(bytes, "rows of an activation")?;
        parts.iter().for_each(|part| joined.extend_from_slice(part.bytes()));
        let whole = parts.first().and_then(|part| {
            let [_, _, width, channels] = part.shape() else { return None };
            HostTensor::new(part.dtype(), &[1, range.len(), *width, *channels], joined.into())
        });
        whole.ok_or_else(|| Error::internal(format!("rows {range:?} of an activation are missing")))
    }

    fn parts(&self, range: &Range<usize>) -> impl Iterator<Item = HostTensor> {
        self.pieces.iter().filter_map(move |(first, piece)| {
            let end = first + piece.shape()[1];
            let inside = range.start.max(*first)..range.end.min(end);
            (!inside.is_empty()).then(|| part(piece, inside.start - first..inside.end - first))
        })
    }

    /// Frees the pieces above a row.
    pub(super) fn free_above(&mut self, row: usize) {
        while self.pieces.front().is_some_and(|(first, piece)| first + piece.shape()[1] <= row) {
            self.pieces.pop_front();
        }
    }
}

/// The rows `range` of `[1, H, W, C]`, in the same memory.
pub(super) fn part(tensor: &HostTensor, range: Range<usize>) -> HostTensor {
    let mut shape = tensor.shape().to_vec();
    let row = shape[2..].iter().product::<usize>() * tensor.dtype().size();
    shape[1] = range.len();
    let bytes = tensor.bytes().slice(range.start * row..range.end * row);
    HostTensor::new(tensor.dtype(), &shape, bytes).expect("as many bytes as the rows hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of three bytes, each with its own number, in pieces of these heights.
    fn numbered(heights: &[usize]) -> Rows {
        let mut rows = Rows::default();
        for &height in heights {
            let start = rows.height();
            let values: Vec<u8> = (start..start + height).flat_map(|row| [row as u8; 3]).collect();
            rows.push(HostTensor::from_u8(&[1, height, 1, 3], &values));
        }
        rows
    }

    #[test]
    fn rows_are_found_across_pieces() {
        let rows = numbered(&[2, 1, 4]);
        assert_eq!((rows.height(), rows.pixels()), (7, [1, 3]));
        for start in 0..7 {
            for end in start + 1..=7 {
                let found = rows.rows(start..end).unwrap();
                let values: Vec<u8> = (start..end).flat_map(|row| [row as u8; 3]).collect();
                assert_eq!((found.shape(), &found.bytes()[..]), (&[1, end - start, 1, 3][..], &values[..]));
            }
        }
        let inside = rows.rows(4..6).unwrap();
        assert_eq!(inside.bytes().as_ptr(), rows.rows(3..7).unwrap().bytes()[3..].as_ptr(), "a view");
    }

    #[test]
    fn pieces_are_freed_from_the_top() {
        let mut rows = numbered(&[2, 1, 4]);
        let whole = rows.clone();
        rows.free_above(1);
        assert_eq!(rows.rows(0..1).unwrap().bytes()[0], 0, "the first piece has a row that is needed");
        rows.free_above(3);
        assert_eq!((rows.height(), rows.rows(3..7).unwrap().shape()[1]), (7, 4));
        assert!(matches!(rows.rows(0..7), Err(Error::Internal(_))) && rows.rows(0..2).is_err());
        assert_eq!(whole.rows(0..7).unwrap().shape()[1], 7, "the clone keeps them");
    }
}
