//! `to_rgb8`: the decoder's output as pixels.

use super::parallel::*;
use super::{Cpu, CpuTensor};
use crate::backend::{ToRgb8Args, ToRgb8Op, level};
use crate::error::{Error, Result};

impl ToRgb8Op for Cpu {
    fn run_to_rgb8(&self, args: ToRgb8Args<'_, CpuTensor>, shape: [usize; 4]) -> Result<CpuTensor> {
        let out = CpuTensor::uninit_u8(&shape)?;
        let input = args.x.memory();
        let pixels = out.memory();
        self.run(move || to_rgb8(&input.read().f32()?, pixels.write().u8_mut()?))?;
        Ok(out)
    }
}

/// `round(255·clamp(x/2 + 1/2, 0, 1))`, ties to even.
fn to_rgb8(x: &[f32], out: &mut [u8]) -> Result<()> {
    if !x.par_iter().all(|x| x.is_finite()) {
        return Err(Error::NonFinitePicture);
    }
    out.par_iter_mut().zip(x).for_each(|(o, x)| *o = level(*x));
    Ok(())
}
