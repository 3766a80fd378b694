//! The autoencoder in tiles next to itself without tiles.

use pollster::block_on;
use zimage::backend::*;
use zimage::conformance::relative_error;
use zimage::model::vae::tiling::{Tile, Tiles};
use zimage::pipeline::Pipeline;
use zimage::tensor::HostTensor;

/// A picture of `[height, width]` pixels that is decoded, and the latents of one that is encoded:
/// in tiles, or whole. Tiles of 8 pixels are bands of one row. The model has 16
/// latent channels of an eighth of the picture's sides.
pub(crate) fn coded<B: Backend>(
    pipeline: &Pipeline<B>,
    [height, width]: [usize; 2],
    tile: Option<Tile>,
) -> [Vec<f32>; 2] {
    let (b, vae) = (pipeline.backend(), pipeline.vae());
    let shape = [1, 16, height / 8, width / 8];
    let latent = |i: usize| (i as f32 * 0.7).sin() + ((i * 7919 % 1009) as f32 / 504.5 - 1.0);
    let latents = HostTensor::from_f32(&shape, &(0..shape.iter().product()).map(latent).collect::<Vec<_>>());
    let latents = b.upload(&latents).unwrap();
    let decoded = match tile {
        Some(tile) => block_on(vae.decode_tiles_unrounded(b, &latents, 0, tile)),
        None => block_on(b.download(&vae.decode_unrounded(b, &latents, 0..1).unwrap())),
    };
    let decoded = decoded.unwrap();
    assert_eq!(decoded.shape(), [1, height, width, 3]);

    let pixels: Vec<u8> = (0..height * width * 3).map(|i| (i * 7919 % 1009 % 256) as u8).collect();
    let picture = HostTensor::from_u8(&[height, width, 3], &pixels);
    let encoded = block_on(vae.encode_picture(b, &picture, &mut Tiles::of(tile))).unwrap();
    assert_eq!(encoded.shape(), shape);
    [decoded.to_f32(), encoded.to_f32()]
}

/// The relative errors of what [`coded`] returns.
pub(crate) fn errors(found: &[Vec<f32>; 2], reference: &[Vec<f32>; 2]) -> [f64; 2] {
    [0, 1].map(|i| relative_error(&found[i], &reference[i]))
}
