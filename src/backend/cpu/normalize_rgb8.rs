//! `normalize_rgb8`: pixels as input of the autoencoder's encoder.

use super::parallel::*;
use super::{Cpu, CpuTensor};
use crate::backend::{NormalizeRgb8Args, NormalizeRgb8Op};
use crate::error::Result;

impl NormalizeRgb8Op for Cpu {
    fn run_normalize_rgb8(&self, args: NormalizeRgb8Args<'_, CpuTensor>, shape: [usize; 4]) -> Result<CpuTensor> {
        self.fill(&shape, [args.pixels], |[pixels], out| {
            normalize_rgb8(pixels.u8(), out);
            Ok(())
        })
    }
}

/// `pixel/127.5 − 1`.
fn normalize_rgb8(pixels: &[u8], out: &mut [f32]) {
    out.par_iter_mut().zip(pixels).for_each(|(o, &p)| *o = f32::from(p) / 127.5 - 1.0);
}
