//! `gather_rows`, and the upload of its table.

use super::{Binding, DType, DeviceTensor, Error, Program, Result, THREADS, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::gpu::quantized::StoredFormat;
use crate::backend::webgpu::launch::gpu::Gpu;
use crate::backend::webgpu::launch::uniform::joined;
use crate::backend::webgpu::matrix::quantized::{self, Segment, SegmentParams};
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::webgpu::memory::allocate::Place;
use crate::backend::webgpu::memory::tensor::padded_bytes;
use crate::backend::{DeviceWeight, GatherRowsArgs, GatherRowsOp};
use crate::tensor::Weight;

const OP: &str = "gather_rows";
const UPLOAD: &str = "upload_table";
/// A table that no binding has room for is cut at multiples of so many rows: uploads begin at whole
/// words, and rows may have an odd number of elements of two bytes.
const CUT_ROWS: usize = 2;
/// Values of a quantised table that one thread writes.
const VEC: usize = 8;

uniform! {
    /// `Params` of `gather_rows.wgsl`, with a quantised table behind those of a segment.
    struct Params {
        ids: u32,
        width: u32,
        first: u32,
        rows: u32,
        table_rows: u32,
    }
}

fn program(stored: Stored) -> Program {
    Program::new::<Params>(OP, wgsl!("gather_rows")).with("STORED", stored.number())
}

fn quantized_program(quantized: StoredFormat) -> Program {
    let program = Program::with_params(OP, wgsl!("gather_rows"), joined::<SegmentParams, Params>());
    quantized.configure(program.define("QUANTIZED"))
}

/// A table in the type that it is stored in. A streamed one is in host memory.
#[derive(Debug)]
pub struct WebGpuTable {
    rows: Rows,
    dims: [usize; 2],
}

#[derive(Debug)]
enum Rows {
    /// Tensors that can be bound, one after the other.
    Floats(Vec<WebGpuTensor>),
    /// Segments that can be bound.
    Quantized(Vec<Segment>),
}

impl DeviceWeight<2> for WebGpuTable {
    fn dims(&self) -> [usize; 2] {
        self.dims
    }
}

/// The rows of a part of a table, if a binding has room for `rows` of `width` values.
fn rows_of_part(gpu: &Gpu, width: usize, rows: usize) -> Result<usize> {
    if rows > 0 {
        return Ok(rows);
    }
    Err(Error::Device(format!(
        "{OP}: rows of {width} are too wide for what {} allows for one buffer",
        gpu.device.info.name
    )))
}

impl GatherRowsOp for WebGpu {
    type Table = WebGpuTable;

    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<WebGpuTable> {
        let dims = [0, 1].map(|dim| table.shape()[dim]);
        let rows = if StoredFormat::keeps_all([table]) {
            let rows = rows_of_part(&self.0, dims[1], StoredFormat::rows_of_binding(&self.0, table))?;
            let place = self.0.place([table], Place::HostBound);
            Rows::Quantized(quantized::upload(&self.0, UPLOAD, table, place, [0, rows], |_, _| {}).await?)
        } else {
            let limit = usize::try_from(self.0.device.max_binding).unwrap_or(usize::MAX);
            let fitting = limit / table.row_bytes();
            let rows = match dims[0] <= fitting && padded_bytes(&dims, table.dtype()) <= limit as u64 {
                true => dims[0],
                false => rows_of_part(&self.0, dims[1], fitting / CUT_ROWS * CUT_ROWS)?,
            };
            Rows::Floats(self.0.upload_table(UPLOAD, table, rows).await?)
        };
        Ok(WebGpuTable { rows, dims })
    }

    fn run_gather_rows(
        &self,
        args: GatherRowsArgs<'_, WebGpuTensor, WebGpuTable>,
        shape: &[usize],
    ) -> Result<WebGpuTensor> {
        let GatherRowsArgs { table: WebGpuTable { rows, dims }, ids } = args;
        let gpu = &self.0;
        let out = gpu.output(OP, shape, DType::F32)?;
        let [table_rows, width] = *dims;
        let params = |first: usize, rows: usize| Params {
            ids: (out.len() / width) as u32,
            width: width as u32,
            first: first as u32,
            rows: rows as u32,
            table_rows: table_rows as u32,
        };
        match rows {
            Rows::Quantized(segments) => {
                for Segment { quantized, params: segment, bindings: [rows, scales], first, rows: count } in segments {
                    let own = params(*first, *count);
                    let uniform = [bytemuck::bytes_of(segment), bytemuck::bytes_of(&own)].concat();
                    let bindings = [rows.clone(), scales.clone(), Binding::from(ids), Binding::from(&out)];
                    let threads = out.len() / width * width.div_ceil(VEC);
                    let groups = threads.div_ceil(THREADS);
                    gpu.dispatch_bytes(&quantized_program(*quantized), &bindings, uniform, groups)?;
                }
            }
            Rows::Floats(parts) => {
                let mut first = 0;
                for part in parts {
                    let rows = part.shape()[0];
                    let bindings = [part, ids, &out].map(Binding::from);
                    let program = program(Stored::from(part.dtype()));
                    gpu.dispatch(&program, &bindings, params(first, rows), out.len().div_ceil(THREADS))?;
                    first += rows;
                }
            }
        }
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    Stored::ALL.into_iter().map(program).chain(StoredFormat::ALL.into_iter().map(quantized_program)).collect()
}
