//! A model's tensor during its upload.
//!
//! A text encoder's embeddings alone exceed the memory that a browser should use. A weight that is
//! not in memory is read in pieces of whole rows, and only the pieces in flight are allocated. A
//! quantised weight is dequantised, and a changed one changed, piece by piece. A backend that keeps
//! a quantised format takes the stored bytes instead ([`Weight::each_stored_piece`]).

use super::{Compute, DType, Format, HostTensor, RowChange, Scales, Storage};
use crate::error::{Error, Result};
use crate::future::BoxFuture;
use crate::reserve;
use bytes::Bytes;
use futures_util::future::try_join;
use futures_util::stream::{StreamExt, iter};
use std::fmt;
use std::future::ready;
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
    /// Rows of a piece of stored bytes.
    stored_rows: usize,
    elements: Elements<'a>,
    /// The error for an infinite value or NaN, if those are refused.
    non_finite: Option<Box<dyn Fn() -> Error + 'a>>,
    stream_source: Option<StreamSource>,
    compute: Compute,
}

/// The host memory that a weight is streamed from. A matrix of several weights is in the backend's
/// memory if one of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamSource {
    /// The backend's, which holds the weight as the device reads it. The device copies it without
    /// the host's help.
    Memory,
    /// The pieces of the weight as they were read. Those of a mapped file take no memory, and the
    /// system reads them from disk when they are copied.
    Files,
}

enum Elements<'a> {
    Here(HostTensor),
    There {
        storage: Storage,
        change: Option<Box<dyn RowChange + 'a>>,
        /// True if dequantised or changed elements are rounded to BF16.
        to_bf16: bool,
        bytes: Box<dyn ReadAt + 'a>,
    },
}

/// Bytes in memory, read like those of a file.
struct InMemory(Bytes);

impl ReadAt for InMemory {
    fn read_at(&self, range: Range<u64>) -> BoxFuture<'_, Bytes> {
        Box::pin(ready(Ok(self.0.slice(range.start as usize..range.end as usize))))
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
        Self {
            shape,
            piece_rows: usize::MAX,
            stored_rows: usize::MAX,
            elements: Elements::Here(tensor),
            non_finite: None,
            stream_source: None,
            compute: Compute::Native,
        }
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
        let elements = Elements::There { storage, change: None, to_bf16: false, bytes: Box::new(bytes) };
        let weight = Self {
            shape: shape.to_vec(),
            piece_rows: usize::MAX,
            stored_rows: usize::MAX,
            elements,
            non_finite: None,
            stream_source: None,
            compute: Compute::Native,
        };
        if let Elements::There { storage: Storage::Scaled { matrix, first_row }, .. } = &weight.elements {
            let [rows, columns] = matrix.shape();
            let end = first_row.checked_add(weight.rows());
            if weight.columns() != columns || end.is_none_or(|end| end > rows) {
                return None;
            }
        }
        weight.place(0, weight.rows()).map(|_| weight)
    }

    /// A quantised tensor whose stored bytes are in memory. `None` if they are not those of whole
    /// rows of this shape.
    pub fn quantized(storage: Storage, shape: &[usize], bytes: Bytes) -> Option<Self> {
        let len = bytes.len() as u64;
        Self::there(storage, shape, InMemory(bytes)).filter(|weight| weight.place(0, weight.rows()) == Some(0..len))
    }

    /// The storage of an unchanged tensor whose elements are quantised in whole blocks a row: a
    /// backend that keeps the format uploads [`Weight::each_stored_piece`].
    pub fn storage(&self) -> Option<&Storage> {
        match &self.elements {
            Elements::There { storage, change: None, .. } if !storage.is_plain() => {
                self.stored_bytes(1, self.columns()).map(|_| storage)
            }
            _ => None,
        }
    }

    /// The same tensor with its rows changed by `change`, as F32, or as BF16 if it is stored so and
    /// the change keeps that type.
    ///
    /// # Panics
    /// If the elements are integers, or changed already.
    pub fn changed(mut self, change: Box<dyn RowChange + 'a>) -> Self {
        if let Elements::Here(tensor) = &self.elements {
            let format = Format::of(tensor.dtype()).unwrap_or_else(|| panic!("a change of {}", tensor.dtype()));
            let storage = Storage::Plain(format);
            let bytes = Box::new(InMemory(tensor.bytes().clone()));
            self.elements = Elements::There { storage, change: None, to_bf16: false, bytes };
        }
        if let Elements::There { change: made, .. } = &mut self.elements {
            assert!(made.replace(change).is_none(), "a second change");
        }
        self
    }

    /// True if the rows are those of [`Weight::changed`].
    pub(super) fn is_changed(&self) -> bool {
        matches!(self.elements, Elements::There { change: Some(_), .. })
    }

    /// The same tensor; elements that are dequantised or changed are rounded to BF16. For a device
    /// that would round them anyway, this halves the memory on the way.
    pub fn in_bf16(mut self) -> Self {
        if let Elements::There { storage, change, to_bf16, .. } = &mut self.elements {
            *to_bf16 = change.is_some() || !storage.is_plain();
        }
        self
    }

    /// The same tensor in pieces of about `bytes` bytes, at least four rows each.
    pub fn in_pieces(mut self, bytes: u64) -> Self {
        if let Some(stored) = self.stored_bytes(1, self.columns()) {
            let rows = |row: u64| (usize::try_from(bytes / row.max(1)).unwrap_or(usize::MAX) / ROWS * ROWS).max(ROWS);
            (self.piece_rows, self.stored_rows) = (rows(self.row_bytes() as u64), rows(stored));
        }
        self
    }

    /// The same tensor, refused with `error` when an infinite value or NaN is read.
    pub(crate) fn finite(mut self, error: impl Fn() -> Error + 'a) -> Self {
        self.non_finite = Some(Box::new(error));
        self
    }

    /// The same tensor. A backend that streams
    /// ([`Overheads::streamed`](crate::backend::Overheads::streamed)) copies it to the device
    /// before each use; `None` for a weight that stays on the device.
    pub fn streamed(mut self, source: impl Into<Option<StreamSource>>) -> Self {
        self.stream_source = source.into();
        self
    }

    /// The memory that the weight is streamed from; `None` if it stays on the device.
    pub fn stream_source(&self) -> Option<StreamSource> {
        self.stream_source
    }

    /// The same matrix, for gemms with operands of this type. `upload_linear` and `upload_swiglu`
    /// refuse one in FP8 that has no [`Weight::fp8_scales`].
    pub fn computed_in(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// The operand type of the gemms that multiply by the matrix.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The scale of each row of a matrix in E4M3, as the operand of an FP8 gemm; `None` if it is
    /// stored in another format or has a scale for less than a row.
    pub fn fp8_scales(&self) -> Option<Vec<f32>> {
        let storage = self.storage().filter(|storage| storage.format() == Format::F8E4m3)?;
        let rows = self.rows();
        match storage {
            Storage::Plain(_) => Some(vec![1.0; rows]),
            Storage::Scaled { matrix, first_row } => match matrix.scales() {
                Scales::None => Some(vec![1.0; rows]),
                Scales::Tensor(scale) => Some(vec![*scale; rows]),
                Scales::Rows(scales) => Some(scales[*first_row..first_row + rows].to_vec()),
                Scales::Mxfp8(_) | Scales::Nvfp4 { .. } => None,
            },
        }
    }

    /// The type of the elements in the pieces.
    pub fn dtype(&self) -> DType {
        match &self.elements {
            Elements::Here(tensor) => tensor.dtype(),
            Elements::There { to_bf16: true, .. } => DType::Bf16,
            Elements::There { storage, change: Some(change), .. } => match storage.dtype() {
                DType::Bf16 if change.keeps_bf16() => DType::Bf16,
                _ => DType::F32,
            },
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
    pub(super) fn columns(&self) -> usize {
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
    pub(super) async fn piece(&self, first: usize, count: usize) -> Result<HostTensor> {
        let count = count.min(self.rows() - first);
        let place = self.place(first, count).ok_or_else(|| Error::internal("a piece is not whole blocks"))?;
        let whole_rows = self.stored_bytes(1, self.columns()).is_some();
        let columns = if whole_rows { self.columns() } else { count * self.columns() };
        let bytes = match &self.elements {
            Elements::Here(tensor) => tensor.bytes().slice(place.start as usize..place.end as usize),
            Elements::There { storage, change, bytes, .. } => {
                storage.decode(first, columns, bytes.read_at(place).await?, self.dtype(), change.as_deref())?
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
    pub async fn each_pair(pair: [&Self; 2], take: impl FnMut(usize, [HostTensor; 2]) -> Result<()>) -> Result<()> {
        // Types of different sizes have pieces of different heights. The smaller height fits both.
        let count = pair[0].piece_rows.min(pair[1].piece_rows);
        Self::in_step(pair, count, async |weight, row| weight.piece(row, count).await, take).await
    }

    /// Reads `count` rows of two tensors of one shape at a time, and passes the index of the first
    /// and the rows of both to `take`.
    async fn in_step<'w, T>(
        [first, second]: [&'w Self; 2],
        count: usize,
        read: impl AsyncFn(&'w Self, usize) -> Result<T>,
        mut take: impl FnMut(usize, [T; 2]) -> Result<()>,
    ) -> Result<()> {
        if first.shape != second.shape {
            let problem = format!("there are no pairs of rows in {:?} and {:?}", first.shape, second.shape);
            return Err(Error::shape("upload", problem));
        }
        let reads = (0..first.rows()).step_by(count).map(async |row| {
            let pair = try_join(read(first, row), read(second, row)).await?;
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
            let values = storage.decode(first, self.columns(), bytes.clone(), storage.dtype(), None)?;
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
            .step_by(self.stored_rows)
            .map(async |first| Ok((first, self.stored_piece(first, self.stored_rows).await?)));
        let mut pieces = pin!(iter(reads).buffered(AHEAD));
        while let Some(piece) = pieces.next().await {
            let (first, bytes) = piece?;
            take(first, bytes)?;
        }
        Ok(())
    }

    /// As [`Weight::each_stored_piece`], for the same rows of two tensors of one shape. Every piece
    /// except the last has a multiple of `multiple` rows.
    ///
    /// # Errors
    /// Errors of [`Weight::each_stored_piece`]; [`Error::Shape`] for different shapes.
    pub async fn each_stored_pair(
        pair: [&Self; 2],
        multiple: usize,
        take: impl FnMut(usize, [Bytes; 2]) -> Result<()>,
    ) -> Result<()> {
        let count = pair[0].stored_rows.min(pair[1].stored_rows);
        let count = count.checked_next_multiple_of(multiple).unwrap_or(usize::MAX);
        Self::in_step(pair, count, async |weight, row| weight.stored_piece(row, count).await, take).await
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
mod tests;
