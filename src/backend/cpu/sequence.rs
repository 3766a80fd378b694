//! `pad_rows` and `join_sequence`: ragged captions and pictures as one sequence an item.

use crate::error::{Error, Result};

/// `x[b, t] = token` for `t ≥ lengths[b]`; `tokens` rows make an item.
pub(super) fn pad_rows(x: &mut [f32], tokens: usize, token: &[f32], lengths: &[u32]) {
    for (item, &length) in x.chunks_exact_mut(tokens * token.len()).zip(lengths) {
        item.chunks_exact_mut(token.len()).skip(length as usize).for_each(|row| row.copy_from_slice(token));
    }
}

/// `out[n] = [image[n mod B], caption[captions[n]]]`, where an image holds `image_item` values and a caption
/// `caption_item`.
pub(super) fn join_sequence(
    (image, image_item): (&[f32], usize),
    (caption, caption_item): (&[f32], usize),
    captions: &[u32],
    out: &mut [f32],
) -> Result<()> {
    let (images, texts) = (image.len() / image_item, caption.len() / caption_item);
    for (n, (out, &c)) in out.chunks_exact_mut(image_item + caption_item).zip(captions).enumerate() {
        let c = c as usize;
        if c >= texts {
            return Err(Error::shape("join_sequence", format!("caption {c} is past the {texts} there are")));
        }
        let (first, second) = out.split_at_mut(image_item);
        first.copy_from_slice(&image[n % images * image_item..][..image_item]);
        second.copy_from_slice(&caption[c * caption_item..][..caption_item]);
    }
    Ok(())
}
