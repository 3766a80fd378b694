//! A model's tensor during its upload.
//!
//! A text encoder's embeddings alone exceed the memory that a browser should use. A weight that is
//! not in memory is read in pieces of whole rows, and only the pieces in flight are allocated. A
//! quantised weight is dequantised piece by piece.

use super::{DType, HostTensor, Storage};
use crate::error::{Error, Result};
use crate::future::BoxFuture;
use crate::reserve;
use bytes::Bytes;
use futures_util::future::try_join;
use futures_util::stream::{StreamExt, iter};
use std::fmt;
use std::ops::Range;
use std::pin::pin;

/// Pieces read at the same time: the next one is fetched while one is uploaded.
const AHEAD: usize = 2;
/// The rows of every piece except the last are a multiple of this, so that pieces of any type start
/// on whole words.
const ROWS: usize = 4;

/// A tensor that is read during its upload. Row-major; its first dimension counts *rows*.
pub struct Weight<'a> {
    shape: Vec<usize>,
    /// Rows of a piece.
    piece_rows: usize,
    elements: Elements<'a>,
    /// The error for an infinite value or NaN, if those are refused.
    non_finite: Option<Box<dyn Fn() -> Error + 'a>>,
}

enum Elements<'a> {
    Here(HostTensor),
    There {
        storage: Storage,
        /// True if dequantised elements are rounded to BF16.
        to_bf16: bool,
        bytes: Box<dyn ReadAt + 'a>,
    },
}

/// Stored rows that are in memory.
struct InMemory(Bytes);

impl ReadAt for InMemory {
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes> {
        let bytes = self.0.slice(range.start as usize..range.end as usize);
        Box::pin(async { Ok(bytes) })
    }
}

/// The stored bytes of a tensor that is not in memory.
pub(crate) trait ReadAt {
    /// The tensor's bytes in `range`, which is inside the tensor.
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes>;
}

impl From<HostTensor> for Weight<'_> {
    /// One piece, which shares the tensor's memory.
    fn from(tensor: HostTensor) -> Self {
        let shape = tensor.shape().to_vec();
        Self { shape, piece_rows: usize::MAX, elements: Elements::Here(tensor), non_finite: None }
    }
}

impl From<&HostTensor> for Weight<'_> {
    fn from(tensor: &HostTensor) -> Self {
        tensor.clone().into()
    }
}

impl<'a> Weight<'a> {
    /// A tensor whose stored bytes are read from `bytes`. `None` if its elements are not whole
    /// blocks of the format. A tensor whose rows are not whole blocks is one piece.
    pub(crate) fn there(storage: Storage, shape: &[usize], bytes: impl ReadAt + 'a) -> Option<Self> {
        let elements = Elements::There { storage, to_bf16: false, bytes: Box::new(bytes) };
        let weight = Self { shape: shape.to_vec(), piece_rows: usize::MAX, elements, non_finite: None };
        weight.place(0, weight.rows()).map(|_| weight)
    }

    /// A quantised tensor whose stored bytes are in memory. `None` if they are not those of whole
    /// rows of this shape.
    pub fn quantized(storage: Storage, shape: &[usize], bytes: Bytes) -> Option<Self> {
        let len = bytes.len() as u64;
        Self::there(storage, shape, InMemory(bytes)).filter(|weight| weight.place(0, weight.rows()) == Some(0..len))
    }

    /// The storage of a tensor whose elements are quantised in whole blocks a row: a backend that
    /// keeps the format uploads [`Weight::each_stored_piece`].
    pub fn storage(&self) -> Option<&Storage> {
        match &self.elements {
            Elements::There { storage, .. } if !storage.is_plain() => {
                self.stored_bytes(1, self.columns()).map(|_| storage)
            }
            _ => None,
        }
    }

    /// The same tensor; elements that are dequantised are rounded to BF16. For a device that would
    /// round them anyway, this halves the memory on the way.
    pub(crate) fn in_bf16(mut self) -> Self {
        if let Elements::There { storage, to_bf16, .. } = &mut self.elements {
            *to_bf16 = !storage.is_plain();
        }
        self
    }

    /// The same tensor in pieces of about `bytes` bytes in memory, at least four rows each.
    pub fn in_pieces(mut self, bytes: u64) -> Self {
        if self.stored_bytes(1, self.columns()).is_some() {
            let rows = usize::try_from(bytes / self.row_bytes().max(1) as u64).unwrap_or(usize::MAX);
            self.piece_rows = (rows / ROWS * ROWS).max(ROWS);
        }
        self
    }

    /// The same tensor, refused with `error` when an infinite value or NaN is read.
    pub(crate) fn finite(mut self, error: impl Fn() -> Error + 'a) -> Self {
        self.non_finite = Some(Box::new(error));
        self
    }

    /// The type of the elements in the pieces.
    pub fn dtype(&self) -> DType {
        match &self.elements {
            Elements::Here(tensor) => tensor.dtype(),
            Elements::There { to_bf16: true, .. } => DType::Bf16,
            Elements::There { storage, .. } => storage.dtype(),
        }
    }

    /// Bytes of `rows` rows of `columns` stored elements; `None` when they are not whole blocks.
    fn stored_bytes(&self, rows: usize, columns: usize) -> Option<u64> {
        match &self.elements {
            Elements::Here(tensor) => Some(rows as u64 * (columns * tensor.dtype().size()) as u64),
            Elements::There { storage, .. } => storage.bytes(rows, columns),
        }
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The first size; 1 for a single value.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements of a row.
    fn columns(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Bytes of a row in the pieces.
    pub fn row_bytes(&self) -> usize {
        self.columns() * self.dtype().size()
    }

    /// The offsets of `count` rows in the stored bytes. The type is u64 because a remote tensor may
    /// exceed this program's address space. Rows that are not whole blocks have a place only
    /// together.
    fn place(&self, first: usize, count: usize) -> Option<Range<u64>> {
        let columns = self.columns();
        match self.stored_bytes(first, columns).zip(self.stored_bytes(first + count, columns)) {
            Some((start, end)) => Some(start..end),
            None if first == 0 && count == self.rows() => Some(0..self.stored_bytes(1, count.checked_mul(columns)?)?),
            None => None,
        }
    }

    /// Up to `count` rows, starting at `first`.
    async fn piece(&self, first: usize, count: usize) -> Result<HostTensor> {
        let count = count.min(self.rows() - first);
        let place = self.place(first, count).ok_or_else(|| Error::internal("a piece is not whole blocks"))?;
        let whole_rows = self.stored_bytes(1, self.columns()).is_some();
        let columns = if whole_rows { self.columns() } else { count * self.columns() };
        let bytes = match &self.elements {
            Elements::Here(tensor) => tensor.bytes().slice(place.start as usize..place.end as usize),
            Elements::There { storage, to_bf16, bytes } => {
                storage.decode(first, columns, bytes.read_at(place).await?, *to_bf16)
            }
        };
        let mut shape = self.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = count;
        }
        let piece = HostTensor::new(self.dtype(), &shape, bytes)
            .ok_or_else(|| Error::internal("a piece has not as many bytes as its rows"))?;
        match &self.non_finite {
            Some(error) if !piece.is_finite() => Err(error()),
            _ => Ok(piece),
        }
    }

    /// Passes all rows of `parts`, stacked, to `take` in order and piece by piece: the index of a
    /// piece's first row, and the piece. Every piece except the last of a part has a multiple of
    /// four rows.
    ///
    /// # Errors
    /// Read errors, and the first error of `take`.
    pub async fn each_piece(parts: &[Self], mut take: impl FnMut(usize, HostTensor) -> Result<()>) -> Result<()> {
        let mut wanted = Vec::new();
        let mut above = 0;
        for part in parts {
            wanted.extend((0..part.rows()).step_by(part.piece_rows).map(|first| (part, first, above + first)));
            above += part.rows();
        }
        let reads = wanted.into_iter().map(async |(part, first, row): (&Self, usize, usize)| {
            part.piece(first, part.piece_rows).await.map(|piece| (row, piece))
        });
        let mut pieces = pin!(iter(reads).buffered(AHEAD));
        while let Some(piece) = pieces.next().await {
            let (row, piece) = piece?;
            take(row, piece)?;
        }
        Ok(())
    }

    /// As [`Weight::each_piece`], for the same rows of two tensors of one shape.
    ///
    /// # Errors
    /// Errors of [`Weight::each_piece`]; [`Error::Shape`] for different shapes.
    pub async fn each_pair(
        [first, second]: [&Self; 2],
        mut take: impl FnMut(usize, [HostTensor; 2]) -> Result<()>,
    ) -> Result<()> {
        if first.shape != second.shape {
            let problem = format!("there are no pairs of rows in {:?} and {:?}", first.shape, second.shape);
            return Err(Error::shape("upload", problem));
        }
        // Types of different sizes have pieces of different heights. The smaller height fits both.
        let count = first.piece_rows.min(second.piece_rows);
        let reads = (0..first.rows()).step_by(count).map(async |row| {
            let pair = try_join(first.piece(row, count), second.piece(row, count)).await?;
            Ok((row, pair.into()))
        });
        let mut pairs = pin!(iter(reads).buffered(AHEAD));
        while let Some(pair) = pairs.next().await {
            let (row, pair) = pair?;
            take(row, pair)?;
        }
        Ok(())
    }

    /// The bytes of up to `count` stored rows, starting at `first`.
    async fn stored_piece(&self, first: usize, count: usize) -> Result<Bytes> {
        let Elements::There { storage, bytes, .. } = &self.elements else {
            return Err(Error::internal("a weight has no stored rows"));
        };
        let count = count.min(self.rows() - first);
        let place = self.place(first, count).ok_or_else(|| Error::internal("a piece is not whole blocks"))?;
        let bytes = bytes.read_at(place).await?;
        if let Some(error) = &self.non_finite {
            let values = storage.decode(first, self.columns(), bytes.clone(), false);
            let values = HostTensor::new(storage.dtype(), &[count, self.columns()], values);
            if !values.is_some_and(|values| values.is_finite()) {
                return Err(error());
            }
        }
        Ok(bytes)
    }

    /// All stored rows of a tensor with [`Weight::storage`]: shared with the file, not copied, if
    /// it is local.
    ///
    /// # Errors
    /// Errors of [`Weight::each_stored_piece`].
    pub async fn whole_stored(&self) -> Result<Bytes> {
        self.stored_piece(0, self.rows()).await
    }

    /// Passes the stored rows of a tensor with [`Weight::storage`] to `take` in order and piece by
    /// piece: the index of a piece's first row, and its bytes.
    ///
    /// # Errors
    /// Read errors, the first error of `take`, and [`Error::Internal`] without a storage.
    pub async fn each_stored_piece(&self, mut take: impl FnMut(usize, Bytes) -> Result<()>) -> Result<()> {
        let reads = (0..self.rows())
            .step_by(self.piece_rows)
            .map(async |first| Ok((first, self.stored_piece(first, self.piece_rows).await?)));
        let mut pieces = pin!(iter(reads).buffered(AHEAD));
        while let Some(piece) = pieces.next().await {
            let (first, bytes) = piece?;
            take(first, bytes)?;
        }
        Ok(())
    }

    /// The whole tensor in memory. It is shared, not copied, if it is one piece in memory already.
    ///
    /// # Errors
    /// Read errors; [`Error::OutOfMemory`].
    pub async fn whole(&self) -> Result<HostTensor> {
        if self.piece_rows >= self.rows() {
            return self.piece(0, self.rows()).await;
        }
        let len = self.rows() as u64 * self.row_bytes() as u64;
        let what = format!("a tensor of {:?}", self.shape);
        let len = usize::try_from(len).map_err(|_| reserve::refused(len as f64, &what))?;
        let mut bytes = reserve::with_room(len, &what)?;
        let parts = std::slice::from_ref(self);
        let take = |_, piece: HostTensor| {
            bytes.extend_from_slice(piece.bytes());
            Ok(())
        };
        Self::each_piece(parts, take).await?;
        Ok(HostTensor::new(self.dtype(), &self.shape, bytes.into()).expect("all rows make the tensor"))
    }
}

impl fmt::Debug for Weight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({} {:?})", self.dtype(), self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::future::expect_ready;
    use crate::tensor::Format;
    use std::cell::Cell;

    /// Increasing bytes, with a count of the reads.
    struct Counting<'a>(&'a Cell<usize>);

    impl ReadAt for Counting<'_> {
        fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes> {
            self.0.set(self.0.get() + 1);
            Box::pin(async move { Ok(range.map(|byte| byte as u8).collect()) })
        }
    }

    fn plain(dtype: DType) -> Storage {
        Storage::Plain(match dtype {
            DType::F32 => Format::F32,
            DType::F16 => Format::F16,
            _ => Format::Bf16,
        })
    }

    #[test]
    fn pieces_are_whole_rows_in_order() {
        // Rows of 6 and 12 bytes, in pieces of four rows: the minimum, and the capacity of 64
        // bytes.
        for (dtype, bytes, heights) in
            [(DType::Bf16, 1, &[4, 4, 3][..]), (DType::F32, 64, &[4, 4, 3]), (DType::Bf16, 50, &[8, 3])]
        {
            let asked = Cell::new(0);
            let weight = Weight::there(plain(dtype), &[11, 3], Counting(&asked)).unwrap().in_pieces(bytes);
            let (mut found, mut rows) = (Vec::new(), Vec::new());
            let parts = [weight];
            expect_ready(Weight::each_piece(&parts, |row, piece| {
                assert_eq!(row, rows.iter().sum::<usize>());
                assert_eq!((piece.dtype(), &piece.shape()[1..]), (dtype, &[3][..]));
                rows.push(piece.shape()[0]);
                found.extend_from_slice(piece.bytes());
                Ok(())
            }))
            .unwrap();
            assert_eq!(rows, heights);
            assert_eq!(found, (0..33 * dtype.size()).map(|byte| byte as u8).collect::<Vec<_>>());
            assert_eq!(asked.get(), heights.len());
            assert_eq!(expect_ready(parts[0].whole()).unwrap().bytes(), &found);
        }
    }

    #[test]
    fn an_infinite_value_is_refused_in_any_piece() {
        for at in [0, 5, 10] {
            let mut values = [1.0; 11];
            values[at] = f32::NEG_INFINITY;
            let tensor = HostTensor::from_f32(&[11, 1], &values);
            let refusing = || Weight::from(&tensor).finite(|| Error::NonFinitePicture);
            assert!(matches!(expect_ready(refusing().whole()), Err(Error::NonFinitePicture)));
            let pieces = [refusing().in_pieces(1)];
            assert!(matches!(expect_ready(Weight::each_piece(&pieces, |_, _| Ok(()))), Err(Error::NonFinitePicture)));
            assert!(expect_ready(Weight::from(&tensor).whole()).is_ok());
        }
    }

    #[test]
    fn stored_rows_keep_their_bytes() {
        let rows: Bytes = (0..7 * 34).map(|byte| if byte % 34 == 1 { 0x3c } else { byte as u8 }).collect();
        let weight = || Weight::quantized(Storage::Plain(Format::Q8_0), &[7, 32], rows.clone()).unwrap();
        let mut found = Vec::new();
        let take = |first, bytes: Bytes| {
            assert_eq!(first * 34, found.len());
            found.extend_from_slice(&bytes);
            Ok(())
        };
        expect_ready(weight().in_pieces(1).each_stored_piece(take)).unwrap();
        assert_eq!(found, rows);
        assert_eq!(expect_ready(weight().in_pieces(1).whole_stored()).unwrap().as_ptr(), rows.as_ptr());
        // The scale of the last row is NaN.
        let mut damaged = rows.to_vec();
        damaged[6 * 34..][..2].copy_from_slice(&[0x01, 0x7e]);
        let damaged = Weight::quantized(Storage::Plain(Format::Q8_0), &[7, 32], damaged.into()).unwrap();
        let refusing = damaged.finite(|| Error::NonFinitePicture).in_pieces(1);
        assert!(matches!(expect_ready(refusing.each_stored_piece(|_, _| Ok(()))), Err(Error::NonFinitePicture)));

        assert!(weight().storage().is_some());
        assert!(Weight::from(HostTensor::from_f32(&[2, 1], &[0.0; 2])).storage().is_none());
        // Blocks that cross rows, and bytes that are missing.
        let crossing = Weight::quantized(Storage::Plain(Format::Q8_0), &[2, 16], rows.slice(..34)).unwrap();
        assert!(crossing.storage().is_none());
        assert!(Weight::quantized(Storage::Plain(Format::Q8_0), &[7, 32], rows.slice(..34)).is_none());
    }

    #[test]
    fn parts_are_stacked() {
        let asked = Cell::new(0);
        let parts =
            [5, 1, 4].map(|rows| Weight::there(plain(DType::F16), &[rows, 2], Counting(&asked)).unwrap().in_pieces(1));
        let mut seen = Vec::new();
        let take = |row, piece: HostTensor| {
            seen.push((row, piece.shape()[0], piece.bytes()[0]));
            Ok(())
        };
        expect_ready(Weight::each_piece(&parts, take)).unwrap();
        assert_eq!(seen, [(0, 4, 0), (4, 1, 16), (5, 1, 0), (6, 4, 0)]);
    }

    #[test]
    fn pairs_have_the_rows_of_both() {
        let asked = Cell::new(0);
        let weight = |dtype| Weight::there(plain(dtype), &[9, 8], Counting(&asked)).unwrap().in_pieces(128);
        let [first, second] = [DType::Bf16, DType::F32].map(weight);
        let mut seen = Vec::new();
        let take = |row, pair: [HostTensor; 2]| {
            seen.push((row, pair.map(|piece| (piece.shape()[0], piece.bytes()[0]))));
            Ok(())
        };
        expect_ready(Weight::each_pair([&first, &second], take)).unwrap();
        assert_eq!(seen, [(0, [(4, 0), (4, 0)]), (4, [(4, 64), (4, 128)]), (8, [(1, 128), (1, 0)])]);
    }

    #[test]
    fn memory_is_shared_and_errors_end_reading() {
        let tensor = HostTensor::from_f32(&[6, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let whole = expect_ready(Weight::from(&tensor).whole()).unwrap();
        assert_eq!(whole.bytes().as_ptr(), tensor.bytes().as_ptr());
        let mut taken = 0;
        let pieces = [Weight::from(&tensor).in_pieces(1)];
        let refused = expect_ready(Weight::each_piece(&pieces, |_, _| {
            taken += 1;
            Err(Error::shape("upload", "refused"))
        }));
        assert!(refused.is_err() && taken == 1);
        assert_eq!(expect_ready(Weight::from(HostTensor::from_f32(&[], &[7.0])).whole()).unwrap().to_f32(), [7.0]);
        let empty = [Weight::from(HostTensor::from_f32(&[0, 4], &[]))];
        expect_ready(Weight::each_piece(&empty, |_, _| Err(Error::shape("upload", "there is a piece")))).unwrap();
    }
}
