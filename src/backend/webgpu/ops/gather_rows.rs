//! `gather_rows`, and the upload of its table.

use super::{Binding, DType, DeviceTensor, Error, Program, Result, THREADS, WebGpu, WebGpuTensor, uniform, wgsl};
use crate::backend::webgpu::matrix::stored::Stored;
use crate::backend::{DeviceWeight, GatherRowsArgs, GatherRowsOp};
use crate::tensor::Weight;

const OP: &str = "gather_rows";
/// Windows of a table start at a multiple of so many rows. Rows have elements of two or four bytes,
/// so windows start on the 256 bytes that every adapter allows.
const WINDOW_ROWS: usize = 128;

uniform! {
    /// `Params` of `gather_rows.wgsl`.
    struct Params {
        count: u32,
        width: u32,
        first: u32,
        rows: u32,
        table_rows: u32,
    }
}

fn program(stored: Stored) -> Program {
    Program::new::<Params>(OP, wgsl!("gather_rows")).with("STORED", stored.number())
}

/// A table in the type that it is stored in.
#[derive(Debug)]
pub struct WebGpuTable {
    tensor: WebGpuTensor,
    dims: [usize; 2],
}

impl DeviceWeight<2> for WebGpuTable {
    fn dims(&self) -> [usize; 2] {
        self.dims
    }
}

impl GatherRowsOp for WebGpu {
    type Table = WebGpuTable;

    async fn run_upload_table(&self, table: &Weight<'_>) -> Result<WebGpuTable> {
        let dims = [0, 1].map(|dim| table.shape()[dim]);
        Ok(WebGpuTable { tensor: self.0.upload_table("upload_table", table).await?, dims })
    }

    fn run_gather_rows(
        &self,
        args: GatherRowsArgs<'_, WebGpuTensor, WebGpuTable>,
        shape: &[usize],
    ) -> Result<WebGpuTensor> {
        let GatherRowsArgs { table: WebGpuTable { tensor: table, dims }, ids } = args;
        let gpu = &self.0;
        let [table_rows, width] = *dims;
        let out = gpu.output(OP, shape, DType::F32)?;
        // A table larger than a binding is read in windows, with a dispatch each.
        let row = (width * table.dtype().size()) as u64;
        let limit = gpu.device.max_binding;
        let window =
            if table.bytes() <= limit { table_rows } else { (limit / row) as usize / WINDOW_ROWS * WINDOW_ROWS };
        if window == 0 {
            return Err(Error::Device(format!(
                "{OP}: rows of {width} are too wide for what {} allows for one buffer",
                gpu.device.info.name
            )));
        }
        for first in (0..table_rows).step_by(window) {
            let rows = window.min(table_rows - first);
            let offset = first as u64 * row;
            let bytes = (rows as u64 * row).next_multiple_of(16).min(table.bytes() - offset);
            let part = Binding { memory: table.memory().clone(), offset, bytes };
            let params = Params {
                count: out.len() as u32,
                width: width as u32,
                first: first as u32,
                rows: rows as u32,
                table_rows: table_rows as u32,
            };
            let bindings = [part, Binding::from(ids), Binding::from(&out)];
            let groups = out.len().div_ceil(THREADS);
            gpu.dispatch(&program(Stored::from(table.dtype())), &bindings, params, groups)?;
        }
        Ok(out)
    }
}

/// Every program of this op.
pub(super) fn programs() -> Vec<Program> {
    Stored::ALL.map(program).to_vec()
}
