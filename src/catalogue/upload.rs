//! `upload` and `download`: a tensor comes back unchanged.

use super::{
    Backend, Call, DType, EQUAL, Entry, Inputs, Op, OpCase, Result, Tolerance, named, returns, upload_rejection, zeros,
};
use crate::backend::DeviceTensor;
use crate::tensor::HostTensor;

/// A tensor of one type.
#[derive(Debug, Clone, Copy)]
enum UploadCase {
    F32(usize),
    U32(usize),
    U8(usize),
    /// An upload inside the call, and so inside the recording.
    Inside,
    Reshaped,
}

impl OpCase for UploadCase {
    const OP: &'static str = "upload";
    const TOLERANCE: Tolerance = EQUAL;

    fn prepare<B: Backend + 'static>(&self, inputs: &mut Inputs<'_, B>) -> Result<Call<B>> {
        let x = match *self {
            UploadCase::F32(len) => inputs.latents(&[len], 1e30)?,
            UploadCase::U32(len) => {
                let values: Vec<u32> = (0..len as u32).map(|i| i * 2654 % 65_521).collect();
                inputs.integers(&[len], &values)?
            }
            UploadCase::U8(len) => inputs.pixels(&[len])?,
            UploadCase::Inside => {
                let values = inputs.draw(35);
                return returns(move |b: &B| Ok([b.upload(&HostTensor::from_f32(&[5, 7], &values))?]));
            }
            UploadCase::Reshaped => {
                let x = inputs.latents(&[2, 3, 5, 7], 1.0)?;
                return returns(move |_| Ok([x.reshaped(&[14, 15])?, x.reshaped(&[210])?]));
            }
        };
        returns(move |_| Ok([x.clone()]))
    }
}

/// Uploads and downloads of the runtime, which are not ops.
pub(crate) fn entry<B: Backend + 'static>() -> Entry<B> {
    // Lengths that are not multiples of a word, a vector or a page.
    let cases = named([
        ("f32-1", UploadCase::F32(1)),
        ("f32-3", UploadCase::F32(3)),
        ("f32-257", UploadCase::F32(257)),
        ("f32-4099", UploadCase::F32(4099)),
        ("u32-1", UploadCase::U32(1)),
        ("u32-3", UploadCase::U32(3)),
        ("u32-257", UploadCase::U32(257)),
        ("u32-4099", UploadCase::U32(4099)),
        ("u8-1", UploadCase::U8(1)),
        ("u8-3", UploadCase::U8(3)),
        ("u8-257", UploadCase::U8(257)),
        ("u8-4099", UploadCase::U8(4099)),
        ("inside-a-recording", UploadCase::Inside),
        ("reshaped", UploadCase::Reshaped),
    ]);
    const OP: &str = UploadCase::OP;
    let rejections = vec![
        upload_rejection(OP, "empty", |b: &B| b.upload(&zeros(DType::F32, &[0])).map(drop)),
        upload_rejection(OP, "empty-dimension", |b: &B| b.upload(&zeros(DType::U8, &[2, 0, 3])).map(drop)),
        upload_rejection(OP, "reshaped", |b: &B| b.upload(&zeros(DType::F32, &[2, 6]))?.reshaped(&[5]).map(drop)),
    ];
    Entry { op: Op { name: OP, features: &[] }, cases, rejections }
}
