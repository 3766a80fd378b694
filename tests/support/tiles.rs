//! The autoencoder in tiles next to itself without tiles.

use pollster::block_on;
use zimage::VaeTile;
use zimage::backend::*;
use zimage::conformance::relative_error;
use zimage::pipeline::Pipeline;
use zimage::tensor::HostTensor;

/// Decodes and encodes `[height, width]` pixels whole and in tiles of each size, and returns the
/// largest relative distance between them. The model has 16 latent channels of an eighth of the
/// picture's sides. Tiles of 8 pixels are bands of one row.
pub(crate) fn distance_of_tiles<B: Backend>(
    pipeline: &Pipeline<B>,
    size @ [height, width]: [usize; 2],
    tiles: &[usize],
) -> f64 {
    let (b, vae) = (pipeline.backend(), pipeline.vae());
    let shape = [1, 16, height / 8, width / 8];
    let latent = |i: usize| (i as f32 * 0.7).sin() + ((i * 7919 % 1009) as f32 / 504.5 - 1.0);
    let latents = HostTensor::from_f32(&shape, &(0..shape.iter().product()).map(latent).collect::<Vec<_>>());
    let latents = b.upload(&latents).unwrap();
    let decoded = block_on(b.download(&vae.decode_unrounded(b, &latents, 0..1).unwrap())).unwrap();

    let pixels: Vec<u8> = (0..height * width * 3).map(|i| (i * 7919 % 1009 % 256) as u8).collect();
    let picture = HostTensor::from_u8(&[height, width, 3], &pixels);
    let encode = |wish| block_on(vae.encode_picture(b, &picture, &mut vae.encoder_tiles(b, wish, size))).unwrap();
    let encoded = encode(VaeTile::Off);

    let distances = tiles.iter().flat_map(|&tile| {
        let tiled = block_on(vae.decode_tiles_unrounded(b, &latents, 0, tile)).unwrap();
        assert_eq!(tiled.shape(), [1, height, width, 3]);
        let again = encode(VaeTile::Pixels(tile));
        assert_eq!(again.shape(), encoded.shape());
        [relative_error(&decoded.to_f32(), &tiled.to_f32()), relative_error(&encoded.to_f32(), &again.to_f32())]
    });
    distances.fold(0.0, f64::max)
}
