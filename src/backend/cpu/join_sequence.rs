//! `join_sequence`: image tokens and caption tokens as one sequence per item.

use super::{Cpu, CpuTensor};
use crate::backend::{DeviceTensor, JoinSequenceArgs, JoinSequenceOp};
use crate::error::{Error, Result};

impl JoinSequenceOp for Cpu {
    fn run_join_sequence(&self, args: JoinSequenceArgs<'_, CpuTensor>, shape: [usize; 3]) -> Result<CpuTensor> {
        let JoinSequenceArgs { image, caption, captions } = args;
        let [image_item, caption_item] = [image, caption].map(|tensor| tensor.shape()[1..].iter().product());
        self.fill(&shape, [image, caption, captions], move |[image, caption, captions], out| {
            join_sequence((&image.f32()?, image_item), (&caption.f32()?, caption_item), &captions.u32(), out)
        })
    }
}

/// `out[n] = [image[n mod B], caption[captions[n]]]`, where an image holds `image_item` values and
/// a caption `caption_item`.
fn join_sequence(
    (image, image_item): (&[f32], usize),
    (caption, caption_item): (&[f32], usize),
    captions: &[u32],
    out: &mut [f32],
) -> Result<()> {
    let images = image.len() / image_item;
    let texts = caption.len() / caption_item;
    for (n, (out, &c)) in out.chunks_exact_mut(image_item + caption_item).zip(captions).enumerate() {
        let c = c as usize;
        if c >= texts {
            return Err(Error::shape("join_sequence", format!("caption {c} is past the last of {texts}")));
        }
        let (first, second) = out.split_at_mut(image_item);
        first.copy_from_slice(&image[n % images * image_item..][..image_item]);
        second.copy_from_slice(&caption[c * caption_item..][..caption_item]);
    }
    Ok(())
}
