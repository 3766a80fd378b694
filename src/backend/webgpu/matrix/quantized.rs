//! Quantised rows on the device: the bytes of the file, and the scales beside them.

use crate::backend::gpu::quantized::StoredFormat;
use crate::backend::webgpu::launch::binding::Binding;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::program::Program;
use crate::backend::webgpu::launch::uniform::uniform;
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::webgpu::memory::tensor::padded_bytes;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Scales, Storage, Weight};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Bytes behind the rows that shaders may read: see `shared/quantized.wgsl`.
const READ_BEHIND: u64 = 12;
/// Most bytes of a segment that are not its rows: those in front up to a word, those behind, and
/// the padding to 16.
const AROUND: u64 = 3 + READ_BEHIND + 15;
/// Rows of a tile of block scales, and its bytes for each four blocks of a row: see [`Scales`].
const TILE_ROWS: usize = 128;
const TILE_BYTES: usize = 512;
const TILE_BLOCKS: usize = 4;
/// Bytes that every adapter allows a binding to start at a multiple of.
const BINDING_ALIGNMENT: u64 = 256;

impl StoredFormat {
    /// True if all of these weights stay quantised.
    pub(crate) fn keeps_all<'w>(weights: impl IntoIterator<Item = &'w Weight<'w>>) -> bool {
        weights.into_iter().all(|weight| weight.storage().and_then(Self::of).is_some())
    }

    /// The most rows of a weight that fit a binding as a segment.
    pub(crate) fn rows_of_binding(gpu: &Gpu, weight: &Weight<'_>) -> usize {
        let row = weight.storage().and_then(|storage| storage.bytes(1, weight.shape()[1]));
        let rows = row.map_or(0, |row| gpu.device.max_binding.saturating_sub(AROUND) / row);
        usize::try_from(rows).unwrap_or(usize::MAX)
    }

    /// Sets the constant FORMAT of `shared/quantized.wgsl`.
    pub(crate) fn configure(self, program: Program) -> Program {
        program.with("FORMAT", self as usize)
    }
}

uniform! {
    /// The first fields of the `Params` of shaders that import `shared/quantized.wgsl`.
    pub(crate) struct SegmentParams {
        start: u32,
        row_bytes: u32,
        scale_row: u32,
        scale_tiles: u32,
        scale: f32,
    }
}

/// Rows of one storage in one buffer.
#[derive(Debug)]
pub(crate) struct Segment {
    pub quantized: StoredFormat,
    pub params: SegmentParams,
    /// The rows as they are in the file, and the scales beside them. Streamed scales follow the
    /// rows in one buffer.
    pub bindings: [Binding; 2],
    /// The index of the first row among those that are uploaded together.
    pub first: usize,
    /// The number of rows.
    pub rows: usize,
}

impl Segment {
    /// The bindings in device memory: themselves, or a copy if the segment is streamed.
    pub(super) fn staged(&self, gpu: &Gpu, op: &'static str) -> Result<[Binding; 2]> {
        let [rows, scales] = &self.bindings;
        if !rows.memory.is_of_host() {
            return Ok(self.bindings.clone());
        }
        let copy = gpu.staged(op, &rows.memory, rows.memory.bytes())?;
        let copied = |binding: &Binding| match Arc::ptr_eq(&binding.memory, &rows.memory) {
            true => Binding { memory: copy.clone(), ..*binding },
            false => binding.clone(),
        };
        Ok([copied(rows), copied(scales)])
    }
}

/// The rows of a segment, and the bytes of the file that its buffer holds.
struct Cut {
    rows: Range<usize>,
    bytes: Range<u64>,
}

/// Uploads the rows of a weight to `place`, cut where their index is a multiple of `piece_rows`.
/// Indices begin at `above`. `see` gets the rows too, with the index of the first one in the
/// weight.
pub(crate) async fn upload(
    gpu: &Gpu,
    op: &str,
    weight: &Weight<'_>,
    place: Place,
    [above, piece_rows]: [usize; 2],
    mut see: impl FnMut(usize, &[u8]),
) -> Result<Vec<Segment>> {
    let decoded = || Error::internal(format!("{op}: {weight:?} is not kept quantised"));
    let (quantized, storage) =
        weight.storage().and_then(|storage| Some((StoredFormat::of(storage)?, storage))).ok_or_else(decoded)?;
    let width = weight.shape()[1];
    let row_bytes = storage.bytes(1, width).ok_or_else(decoded)?;
    let cuts = cut(weight.rows(), row_bytes, above, piece_rows);
    let mut uploads = Vec::new();
    let mut beside = Vec::new();
    for cut in &cuts {
        let (scales, params) = scales(storage, cut.rows.clone());
        let (bytes, limit) = match &scales {
            Some(scales) if place != Place::Device => {
                (cut.scales_at() + padded_bytes(scales.shape(), scales.dtype()), gpu.device.limits.max_buffer_size)
            }
            _ => (cut.row_bytes(), gpu.device.max_binding),
        };
        uploads.push(gpu.start_upload(op, &[cut.rows.len(), width], bytes, limit, place)?);
        beside.push((scales, params));
    }
    let take = |first: usize, rows: Bytes| {
        let start = first as u64 * row_bytes;
        let end = start + rows.len() as u64;
        for (upload, Cut { bytes, .. }) in uploads.iter_mut().zip(&cuts) {
            let part = start.max(bytes.start)..end.min(bytes.end);
            if !part.is_empty() {
                // Pieces and cuts begin at whole words of the file, so this is one of the buffer.
                let at = (part.start - bytes.start) as usize;
                let part = (part.start - start) as usize..(part.end - start) as usize;
                gpu.write(upload, at, rows.slice(part))?;
            }
        }
        see(first, &rows);
        gpu.device.faults.check()
    };
    weight.each_stored_piece(take).await?;
    let mut segments = Vec::new();
    for ((mut upload, cut), (scales, params)) in uploads.into_iter().zip(cuts).zip(beside) {
        let scales = match scales {
            None => gpu.absent_input(),
            Some(scales) if place == Place::Device => Binding::from(&gpu.upload_tensor(op, &scales)?),
            Some(scales) => {
                gpu.write(&mut upload, cut.scales_at() as usize, scales.bytes().clone())?;
                let bytes = padded_bytes(scales.shape(), scales.dtype());
                Binding { memory: upload.memory().clone(), offset: cut.scales_at(), bytes }
            }
        };
        let stored = Binding::of(&gpu.finish_upload(upload)?, cut.row_bytes());
        if matches!(place, Place::Host | Place::Pageable) {
            gpu.scratch.streamed.count(stored.memory.bytes());
        }
        let Cut { rows, bytes } = cut;
        let start = (rows.start as u64 * row_bytes - bytes.start) as u32;
        segments.push(Segment {
            quantized,
            params: SegmentParams { start, row_bytes: row_bytes as u32, ..params },
            bindings: [stored, scales],
            first: above + rows.start,
            rows: rows.len(),
        });
    }
    Ok(segments)
}

impl Cut {
    /// Bytes of the buffer that shaders may read.
    fn row_bytes(&self) -> u64 {
        (self.bytes.end - self.bytes.start + READ_BEHIND).next_multiple_of(16)
    }

    /// The offset of streamed scales.
    fn scales_at(&self) -> u64 {
        self.row_bytes().next_multiple_of(BINDING_ALIGNMENT)
    }
}

/// The segments of `rows` rows. Their bytes begin at a multiple of four in the file, and so with up
/// to three bytes of the row before.
fn cut(rows: usize, row_bytes: u64, above: usize, piece_rows: usize) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut first = 0;
    while first < rows {
        let end = (first + piece_rows - (above + first) % piece_rows).min(rows);
        cuts.push(Cut { rows: first..end, bytes: first as u64 * row_bytes / 4 * 4..end as u64 * row_bytes });
        first = end;
    }
    cuts
}

/// The scales beside some rows of a weight, and the parameters that say how to read them.
fn scales(storage: &Storage, rows: Range<usize>) -> (Option<HostTensor>, SegmentParams) {
    let mut params = SegmentParams { start: 0, row_bytes: 0, scale_row: 0, scale_tiles: 0, scale: 1.0 };
    let Storage::Scaled { matrix, first_row } = storage else {
        return (None, params);
    };
    let rows = first_row + rows.start..first_row + rows.end;
    let blocks = match matrix.scales() {
        Scales::None => return (None, params),
        Scales::Tensor(scale) => {
            params.scale = *scale;
            return (None, params);
        }
        Scales::Rows(scales) => return (Some(HostTensor::from_f32(&[rows.len()], &scales[rows])), params),
        Scales::Mxfp8(blocks) => blocks,
        Scales::Nvfp4 { blocks, tensor } => {
            params.scale = *tensor;
            blocks
        }
    };
    // Whole tiles, from the one that has the first row.
    let tiles = matrix.block_columns().div_ceil(TILE_BLOCKS);
    let tiled = rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS);
    let row_of_tiles = tiles * TILE_BYTES;
    let part = blocks.slice(tiled.start * row_of_tiles..tiled.end * row_of_tiles);
    let part = HostTensor::new(DType::U8, &[part.len()], part).expect("as many bytes as elements");
    params.scale_row = (rows.start % TILE_ROWS) as u32;
    params.scale_tiles = tiles as u32;
    (Some(part), params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_begin_on_words_of_the_file() {
        let found = |rows, row_bytes, above, piece_rows| -> Vec<_> {
            let cuts = cut(rows, row_bytes, above, piece_rows);
            cuts.into_iter().map(|Cut { rows, bytes }| (rows, bytes)).collect()
        };
        assert_eq!(found(7, 34, 0, 100), [(0..7, 0..238)]);
        assert_eq!(found(7, 34, 2, 5), [(0..3, 0..102), (3..7, 100..238)]);
        assert_eq!(found(5, 61, 5, 3), [(0..1, 0..61), (1..4, 60..244), (4..5, 244..305)]);
    }
}
