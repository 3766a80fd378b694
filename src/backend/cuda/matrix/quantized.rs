//! Quantised rows on the device, and the kernel that dequantises them.
//!
//! The rows keep the bytes of the file, and scales beside them have buffers of their own.
//! `kernels/common/quantized.cuh` reads both.

use super::Matrix;
use crate::backend::DeviceWeight;
use crate::backend::cuda::driver::program::{Program, kernel};
use crate::backend::cuda::launch::args::Arg;
use crate::backend::cuda::launch::gpu::Gpu;
use crate::backend::cuda::launch::kernel::{Grid, WARP};
use crate::backend::cuda::launch::streaming::Staged;
use crate::backend::cuda::memory::arena::Home;
use crate::backend::cuda::memory::tensor::{CudaTensor, VECTOR, aligned};
use crate::backend::gpu::quantized::{StoredFormat, keeps};
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Scales, Storage, Weight};
use bytes::Bytes;

const OP: &str = "dequantize";
/// The most threads of a CTA.
const THREADS: usize = 256;
/// Rows of a CTA.
const ROWS: usize = 4;
/// The kernels load rows of codes in words of so many bytes.
const WORD: usize = 16;

/// Rows and columns of a tile of block scales.
const TILE: [usize; 2] = [128, 4];

impl StoredFormat {
    /// True if rows may end in a part of a vector of eight elements.
    fn has_any_width(self) -> bool {
        matches!(self, Self::F8E4m3 | Self::F8E4m3Rows | Self::Mxfp8 | Self::Nvfp4)
    }

    /// The distance of the two vectors of a unit in elements: `DISTANCE` in the kernels.
    fn distance(self) -> usize {
        match self {
            Self::Q4_0 => 16,
            Self::Q4K | Self::Q5K => 32,
            Self::Q8_0 | Self::Q6K | Self::F8E4m3 | Self::F8E4m3Rows | Self::Mxfp8 | Self::Nvfp4 => 64,
        }
    }

    /// Units that cover a row of `stride` elements.
    fn units(self, stride: usize) -> usize {
        stride.div_ceil(2 * self.distance()) * self.distance() / VECTOR
    }

    /// `program` for this layout; `aligned` is 1 for rows of whole vectors, else 0.
    fn specialized(self, program: Program, aligned: usize) -> Program {
        program.with("FORMAT", self as usize).with("ALIGNED", aligned)
    }
}

/// Quantised rows `[rows, width]`.
#[derive(Debug)]
pub(crate) struct QuantizedRows {
    format: StoredFormat,
    pub rows: usize,
    width: usize,
    /// U8; rows are `row_bytes` apart.
    codes: CudaTensor,
    row_bytes: usize,
    scales: Beside,
}

/// The scales beside codes.
#[derive(Debug)]
struct Beside {
    /// F32 `[rows]`, or the U8 tiles of the blocks' scales.
    many: Option<CudaTensor>,
    /// The first row in its tile.
    first_row: usize,
    /// Tiles side by side.
    tiles: usize,
    /// The scale of the tensor.
    one: f32,
}

impl Beside {
    const NONE: Self = Self { many: None, first_row: 0, tiles: 0, one: 1.0 };

    /// The scales of `rows` rows.
    fn upload(gpu: &Gpu, op: &'static str, storage: &Storage, rows: usize, home: Home) -> Result<Self> {
        let Storage::Scaled { matrix, first_row } = storage else { return Ok(Self::NONE) };
        let tiles_of = |codes: &Bytes| {
            let [height, width] = TILE;
            let tiles = matrix.block_columns().div_ceil(width);
            let start = |row: usize| row * tiles * height * width;
            let covered = start(first_row / height)..start((first_row + rows).div_ceil(height));
            let many = gpu.upload_to(op, &[covered.len()], DType::U8, codes.slice(covered), home)?;
            Ok::<_, Error>(Self { many: Some(many), first_row: first_row % height, tiles, one: 1.0 })
        };
        match matrix.scales() {
            Scales::None => Ok(Self::NONE),
            Scales::Tensor(scale) => Ok(Self { one: *scale, ..Self::NONE }),
            Scales::Rows(scales) => {
                let scales = HostTensor::from_f32(&[rows], &scales[*first_row..first_row + rows]);
                let many = gpu.upload_to(op, &[rows], DType::F32, scales.bytes().clone(), home)?;
                Ok(Self { many: Some(many), ..Self::NONE })
            }
            Scales::Mxfp8(codes) => tiles_of(codes),
            Scales::Nvfp4 { blocks, tensor } => Ok(Self { one: *tensor, ..tiles_of(blocks)? }),
        }
    }
}

impl QuantizedRows {
    /// True if the rows of a weight stay quantised.
    pub(crate) fn supports(weight: &Weight<'_>) -> bool {
        weight.storage().is_some_and(|storage| keeps(storage.format()) && StoredFormat::of(storage).is_some())
    }

    /// True if the rows of both weights can be parts of one upload.
    pub(crate) fn may_join(first: &Weight<'_>, second: &Weight<'_>) -> bool {
        match (first.storage(), second.storage()) {
            (Some(Storage::Plain(first)), Some(Storage::Plain(second))) => first == second,
            _ => false,
        }
    }

    /// The rows of `parts` in `home`, one part after the other: one that is supported, or several
    /// that may join.
    pub(crate) async fn upload(gpu: &Gpu, op: &'static str, parts: &[Weight<'_>], home: Home) -> Result<Self> {
        let unsupported = || Error::internal(format!("{op}: rows that no kernel dequantises"));
        let first = parts.first().ok_or_else(unsupported)?;
        let storage = first.storage().ok_or_else(unsupported)?;
        let format = StoredFormat::of(storage).ok_or_else(unsupported)?;
        let width = first.shape()[1];
        let rows: usize = parts.iter().map(Weight::rows).sum();
        let stored = storage.bytes(1, width).ok_or_else(unsupported)? as usize;
        // Rows of bytes are padded, so that a thread loads eight at once at any width.
        let is_bytes = storage.format().block().bytes == storage.format().block().elements;
        let row_bytes = if is_bytes { stored.next_multiple_of(VECTOR) } else { stored };
        let codes = gpu.upload_target(op, &[(rows * row_bytes).next_multiple_of(WORD)], DType::U8, home)?;
        let mut above = 0;
        for part in parts {
            let write = |row: usize, bytes: Bytes| {
                let (start, len) = ((above + row) * row_bytes, bytes.len() / stored * row_bytes);
                if row_bytes == stored {
                    return gpu.upload_piece(op, &codes, start, bytes);
                }
                gpu.upload_owned_chunks(op, &codes, start, len, row_bytes, move |row, out| {
                    let (codes, padding) = out.split_at_mut(stored);
                    codes.copy_from_slice(&bytes[row * stored..(row + 1) * stored]);
                    padding.fill(0);
                })
            };
            part.each_stored_piece(write).await?;
            above += part.rows();
        }
        Ok(Self { format, rows, width, codes, row_bytes, scales: Beside::upload(gpu, op, storage, rows, home)? })
    }

    /// The layout of the rows.
    pub(crate) fn format(&self) -> StoredFormat {
        self.format
    }

    /// `program` for rows in this layout.
    pub(crate) fn specialized(&self, program: Program) -> Program {
        self.format.specialized(program, aligned(self.width))
    }

    /// The tensors that hold the rows.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &CudaTensor> {
        std::iter::once(&self.codes).chain(&self.scales.many)
    }

    /// The rows in device memory, as long as the result lives.
    pub(crate) fn staged<'a>(&'a self, gpu: &'a Gpu, op: &'static str) -> Result<StagedRows<'a>> {
        let codes = gpu.staged(op, &self.codes)?;
        let many = self.scales.many.as_ref().map(|many| gpu.staged(op, many)).transpose()?;
        Ok(StagedRows { rows: self, codes, many })
    }

    /// The first arguments of a kernel that reads a few of the rows, in host memory if they are
    /// streamed.
    pub(crate) fn args(&self) -> [Arg<'_>; 6] {
        self.args_at(&self.codes, self.scales.many.as_ref())
    }

    fn args_at<'a>(&self, codes: &'a CudaTensor, many: Option<&'a CudaTensor>) -> [Arg<'a>; 6] {
        let Beside { first_row, tiles, one, .. } = &self.scales;
        [
            Arg::Read(codes),
            Arg::optional(many),
            Arg::U32(self.row_bytes),
            Arg::U32(*first_row),
            Arg::U32(*tiles),
            Arg::F32(*one),
        ]
    }

    /// Writes the values to rows `first`, `first + step`, … of a dense matrix of the same width.
    pub(super) fn dequantize(&self, gpu: &Gpu, out: &Matrix, first: usize, step: usize) -> Result<()> {
        let stride = out.stride();
        let sizes = [self.rows, self.width, stride, first, step].map(Arg::U32);
        let rows = self.staged(gpu, OP)?;
        let args = [&rows.args()[..], &[Arg::Write(out.tensor())], &sizes].concat();
        // As few CTAs in a row as possible, whose warps are as full as possible.
        let units = self.format.units(stride);
        let side_by_side = units.div_ceil(THREADS);
        let threads = units.div_ceil(side_by_side).next_multiple_of(WARP);
        let grid = Grid { ctas: [self.rows.div_ceil(ROWS), side_by_side, 1], threads, shared: 0 };
        gpu.launch(&self.specialized(program()), OP, grid, &args)
    }
}

/// Quantised rows in device memory.
#[derive(Debug)]
pub(crate) struct StagedRows<'a> {
    rows: &'a QuantizedRows,
    codes: Staged<'a>,
    many: Option<Staged<'a>>,
}

impl StagedRows<'_> {
    /// The first arguments of a kernel that reads the rows.
    pub(crate) fn args(&self) -> [Arg<'_>; 6] {
        self.rows.args_at(&self.codes, self.many.as_deref())
    }
}

impl DeviceWeight<2> for QuantizedRows {
    fn dims(&self) -> [usize; 2] {
        [self.rows, self.width]
    }
}

fn program() -> Program {
    Program::new(OP, kernel!("dequantize.cu")).with("ROWS", ROWS).pdl()
}

/// `program` for every layout, and for rows that end in a part of a vector where they can.
pub(crate) fn specialized_for_all(program: &Program) -> Vec<Program> {
    let whole = StoredFormat::ALL.into_iter().map(|format| (format, 1));
    let cut = StoredFormat::ALL.into_iter().filter(|format| format.has_any_width()).map(|format| (format, 0));
    whole.chain(cut).map(|(format, aligned)| format.specialized(program.clone(), aligned)).collect()
}

/// The programs of `dequantize`.
pub(crate) fn programs() -> Vec<Program> {
    specialized_for_all(&program())
}
