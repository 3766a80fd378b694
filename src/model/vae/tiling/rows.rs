//! The rows of a picture or an activation, on the device or in the host's memory.

use crate::backend::{Backend, DeviceTensor};
use crate::error::{Error, Result};
use crate::reserve;
use crate::tensor::HostTensor;
use std::collections::VecDeque;
use std::ops::Range;

/// Channels-last rows `[1, n, W, C]`, where they wait.
#[derive(Debug, Clone)]
pub(super) enum Piece<T> {
    Device(T),
    Host(HostTensor),
}

impl<T: DeviceTensor> Piece<T> {
    fn shape(&self) -> &[usize] {
        match self {
            Piece::Device(tensor) => tensor.shape(),
            Piece::Host(tensor) => tensor.shape(),
        }
    }

    fn device(&self) -> Option<&T> {
        match self {
            Piece::Device(tensor) => Some(tensor),
            Piece::Host(_) => None,
        }
    }

    fn host(&self) -> Option<&HostTensor> {
        match self {
            Piece::Device(_) => None,
            Piece::Host(tensor) => Some(tensor),
        }
    }
}

/// Rows `[1, height, W, C]`, which come from top to bottom in pieces. Pieces that nothing reads any
/// more are freed in the same order. A clone shares the pieces.
#[derive(Debug, Clone)]
pub(super) struct Rows<T> {
    /// Each piece with its first row.
    pieces: VecDeque<(usize, Piece<T>)>,
    height: usize,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), height: 0 }
    }
}

impl<T: DeviceTensor> Rows<T> {
    /// All rows of `[1, H, W, C]` in the host's memory.
    pub(super) fn of(whole: HostTensor) -> Self {
        let mut rows = Self::default();
        rows.push(Piece::Host(whole));
        rows
    }

    /// Adds rows `[1, n, W, C]` at the bottom.
    pub(super) fn push(&mut self, piece: Piece<T>) {
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

    /// A part of the rows, which are still there, on the device: their piece if they are all of
    /// one, else a copy.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], and other errors of the backend.
    pub(super) fn on_device<B: Backend<Tensor = T>>(&self, b: &B, range: Range<usize>) -> Result<T> {
        let parts: Vec<(&T, Range<usize>)> =
            self.parts(&range).filter_map(|(piece, rows)| Some((piece.device()?, rows))).collect();
        let found: usize = parts.iter().map(|(_, rows)| rows.len()).sum();
        match &parts[..] {
            [] => b.upload(&self.on_host(range)?),
            _ if found < range.len() => Err(missing(&range)),
            [(tensor, rows)] if rows.len() == tensor.shape()[1] => Ok((*tensor).clone()),
            parts => b.concat_rows(parts),
        }
    }

    /// A part of the rows, which are still there and in the host's memory: a view if they lie in
    /// one piece, else a copy.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn on_host(&self, range: Range<usize>) -> Result<HostTensor> {
        let parts: Vec<HostTensor> =
            self.parts(&range).filter_map(|(piece, rows)| Some(part(piece.host()?, rows))).collect();
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
        whole.ok_or_else(|| missing(&range))
    }

    /// The pieces that have rows of a range, each with these rows of it.
    fn parts(&self, range: &Range<usize>) -> impl Iterator<Item = (&Piece<T>, Range<usize>)> {
        self.pieces.iter().filter_map(move |(first, piece)| {
            let end = first + piece.shape()[1];
            let inside = range.start.max(*first)..range.end.min(end);
            (!inside.is_empty()).then(|| (piece, inside.start - first..inside.end - first))
        })
    }

    /// Frees the pieces above a row.
    pub(super) fn free_above(&mut self, row: usize) {
        while self.pieces.front().is_some_and(|(first, piece)| first + piece.shape()[1] <= row) {
            self.pieces.pop_front();
        }
    }
}

fn missing(range: &Range<usize>) -> Error {
    Error::internal(format!("rows {range:?} of an activation are missing"))
}

/// The rows `range` of `[1, H, W, C]`, in the same memory.
fn part(tensor: &HostTensor, range: Range<usize>) -> HostTensor {
    let mut shape = tensor.shape().to_vec();
    let row = shape[2..].iter().product::<usize>() * tensor.dtype().size();
    shape[1] = range.len();
    let bytes = tensor.bytes().slice(range.start * row..range.end * row);
    HostTensor::new(tensor.dtype(), &shape, bytes).expect("as many bytes as the rows hold")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Runtime;
    use crate::backend::cpu::{Cpu, CpuTensor};
    use crate::future::expect_ready;

    /// Rows of three values, each with its own number, in pieces of these heights.
    fn numbered(heights: &[usize], piece: impl Fn(HostTensor) -> Piece<CpuTensor>) -> Rows<CpuTensor> {
        let mut rows = Rows::default();
        for &height in heights {
            let start = rows.height();
            let values: Vec<f32> = (start..start + height).flat_map(|row| [row as f32; 3]).collect();
            rows.push(piece(HostTensor::from_f32(&[1, height, 1, 3], &values)));
        }
        rows
    }

    fn on_device(tensor: HostTensor) -> Piece<CpuTensor> {
        Piece::Device(Cpu::new().upload(&tensor).unwrap())
    }

    #[test]
    fn rows_are_found_across_pieces() {
        let b = Cpu::new();
        for rows in [numbered(&[2, 1, 4], Piece::Host), numbered(&[2, 1, 4], on_device)] {
            assert_eq!((rows.height(), rows.pixels()), (7, [1, 3]));
            for start in 0..7 {
                for end in start + 1..=7 {
                    let found = expect_ready(b.download(&rows.on_device(&b, start..end).unwrap())).unwrap();
                    let values: Vec<f32> = (start..end).flat_map(|row| [row as f32; 3]).collect();
                    assert_eq!((found.shape(), found.to_f32()), (&[1, end - start, 1, 3][..], values));
                }
            }
        }
        let rows = numbered(&[2, 1, 4], Piece::Host);
        let inside = rows.on_host(4..6).unwrap();
        assert_eq!(inside.bytes().as_ptr(), rows.on_host(3..7).unwrap().bytes()[12..].as_ptr(), "a view");
    }

    #[test]
    fn pieces_are_freed_from_the_top() {
        let b = Cpu::new();
        for mut rows in [numbered(&[2, 1, 4], Piece::Host), numbered(&[2, 1, 4], on_device)] {
            let whole = rows.clone();
            rows.free_above(1);
            assert_eq!(rows.on_device(&b, 0..1).unwrap().shape()[1], 1, "the first piece has a row that is needed");
            rows.free_above(3);
            assert_eq!((rows.height(), rows.on_device(&b, 3..7).unwrap().shape()[1]), (7, 4));
            assert!(matches!(rows.on_device(&b, 0..7), Err(Error::Internal(_))) && rows.on_device(&b, 0..2).is_err());
            assert_eq!(whole.on_device(&b, 0..7).unwrap().shape()[1], 7, "the clone keeps them");
        }
    }
}
