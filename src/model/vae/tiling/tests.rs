//! Choosing, cutting and assembling tiles, without a network.

use super::*;
use proptest::prelude::*;

/// The autoencoder of Z-Image.
fn config() -> VaeConfig {
    VaeConfig {
        latent_channels: 16,
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        norm_num_groups: 32,
        scaling_factor: 0.3611,
        shift_factor: 0.1159,
        use_quant_conv: false,
        use_post_quant_conv: false,
        mid_block_add_attention: true,
    }
}

#[test]
fn largest_activation_is_at_the_widest_resolution() {
    let config = config();
    // The last upsampling outputs 256 channels at the picture's size; the encoder begins with 128.
    assert_eq!(config.largest_decoded([1024, 768]), 1024 * 768 * 256);
    assert_eq!(config.largest_encoded([1024, 768]), 1024 * 768 * 128);
    let deep = VaeConfig { block_out_channels: vec![8, 8, 8, 4096], ..config.clone() };
    assert_eq!(deep.largest_decoded([64, 64]), 16 * 16 * 4096, "upsampled once");
    assert_eq!(deep.largest_encoded([64, 64]), 8 * 8 * 3 * 4096, "queries, keys and values");
    let flat = VaeConfig { block_out_channels: vec![4], mid_block_add_attention: false, ..config.clone() };
    assert_eq!(flat.largest_decoded([64, 64]), 64 * 64 * 32, "means and deviations of 16 latent channels");
    assert_eq!(config.largest_decoded([usize::MAX, 8]), usize::MAX);
}

fn tiles(wish: VaeTile, size: [usize; 2], room: usize) -> Vec<Option<usize>> {
    let config = config();
    Tiles::new(wish, &config, size, |size| config.largest_decoded(size), room).left.into()
}

#[test]
fn the_largest_tiles_that_fit_come_first() {
    let all = [None, Some(1024), Some(512), Some(256), Some(128)];
    assert_eq!(tiles(VaeTile::Auto, [2048, 2048], usize::MAX), all);
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], usize::MAX), [None, Some(512), Some(256), Some(128)]);
    assert_eq!(tiles(VaeTile::Auto, [1024, 1040], usize::MAX), all);
    assert_eq!(tiles(VaeTile::Auto, [64, 128], usize::MAX), [None]);
    // 128 MiB of F32, the limit of a browser: 362² pixels of 256 channels.
    let browser = (128 << 20) / 4;
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], browser), all[3..]);
    assert_eq!(
        tiles(VaeTile::Auto, [128, 1024], browser),
        all[..1].iter().chain(&all[2..]).copied().collect::<Vec<_>>()
    );
    assert_eq!(tiles(VaeTile::Auto, [256, 1024], browser), all[2..], "512 × 256 is what fits exactly");
    let exactly = 512 * 512 * 256;
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], exactly), all[2..]);
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], exactly - 1), all[3..]);
    // If nothing fits, the smallest tile remains and reports the error.
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], 1), all[4..]);
    assert_eq!(tiles(VaeTile::Auto, [96, 96], 1), [None]);
    // Requested tiles are used as they are.
    assert_eq!(tiles(VaeTile::Off, [1024, 1024], 1), [None]);
    assert_eq!(tiles(VaeTile::Pixels(96), [64, 128], usize::MAX), [Some(96)]);
    assert_eq!(tiles(VaeTile::Pixels(96), [96, 96], usize::MAX), [None]);
}

#[test]
fn automatic_tiles_cause_a_warning() {
    let config = config();
    let new = |wish, room| Tiles::new(wish, &config, [640, 640], |size| config.largest_decoded(size), room);
    assert_eq!(new(VaeTile::Auto, usize::MAX).warning(), None);
    assert_eq!(new(VaeTile::Pixels(128), usize::MAX).warning(), None);
    let mut tiles = new(VaeTile::Auto, 256 * 256 * 256);
    let warning = tiles.warning().unwrap();
    assert!(warning.contains("tiles of 256×256 pixels"), "{warning}");
    assert!(tiles.shrink() && tiles.pixels() == Some(128) && !tiles.shrink() && tiles.pixels() == Some(128));
}

#[test]
fn a_size_of_tiles_is_read_and_checked() {
    for (text, tile) in [("auto", VaeTile::Auto), ("off", VaeTile::Off), ("96", VaeTile::Pixels(96))] {
        assert_eq!(text.parse::<VaeTile>().unwrap(), tile);
        assert_eq!(tile.to_string(), text);
        tile.check(&config()).unwrap();
    }
    for text in ["", "on", "-1", "64px", "1e3"] {
        let sentence = text.parse::<VaeTile>().unwrap_err().to_string();
        assert!(sentence.ends_with("use auto, off, or a number of pixels"), "{sentence}");
    }
    for (pixels, instead) in [(0, 32), (31, 32), (100, 96), (65_568, 65_536), (usize::MAX, 65_536)] {
        let sentence = VaeTile::Pixels(pixels).check(&config()).unwrap_err().to_string();
        let expected = format!("tiles of {pixels} pixels are not a positive multiple of 32 up to 65536: use {instead}");
        assert_eq!(sentence, expected);
    }
}

#[test]
fn sides_are_cut_as_in_diffusers() {
    // Tiles of 16 latent pixels, 12 apart.
    let cut = Cut::new(128, &config()).unwrap();
    let tiles = |len| cut.tiles(len).map(|tile| (tile.start, tile.end)).collect::<Vec<_>>();
    assert_eq!(tiles(17), [(0, 16), (12, 17)], "barely larger than a tile");
    assert_eq!(tiles(24), [(0, 16), (12, 24)], "two strides");
    assert_eq!(tiles(25), [(0, 16), (12, 25), (24, 25)], "the last tile lies within the one before");
    assert_eq!(tiles(28), [(0, 16), (12, 28), (24, 28)]);
    assert_eq!(tiles(16), [(0, 16), (12, 16)]);
    assert!(Cut::new(100, &config()).is_err() && Cut::new(0, &config()).is_err());
}

/// Assembles `[outer, height, width, inner]` from tiles cut out of it. `change` modifies each tile
/// by its number. Sides are in latent pixels, of `factor` entries each.
fn through_tiles(
    [outer, height, width, inner]: [usize; 4],
    factor: usize,
    tile: usize,
    values: &[f32],
    change: impl Fn(usize, f32) -> f32,
) -> Vec<f32> {
    let cut = Cut::new(tile * config().scale_factor(), &config()).unwrap();
    let shape = [outer, height * factor, width * factor, inner];
    let whole = HostTensor::from_f32(&shape, values);
    let mut mosaic = Mosaic::new(outer, [shape[1], shape[2]], inner, cut, factor);
    let scaled = |range: Range<usize>| range.start * factor..range.end * factor;
    let mut number = 0;
    for rows in cut.tiles(height) {
        let band = part(&whole, 1, scaled(rows));
        for columns in cut.tiles(width) {
            let tile = part(&band, 2, scaled(columns));
            let size = [tile.shape()[1], tile.shape()[2]];
            let values = tile.to_f32().iter().map(|&value| change(number, value)).collect();
            mosaic.add(values, size, &|value| value).unwrap();
            number += 1;
        }
    }
    assert_eq!(mosaic.at, [cut.tiles(height).count() * cut.stride * factor, 0], "all tiles were put in");
    mosaic.values
}

proptest! {
    /// Equal neighbours are assembled to the original, for any size.
    #[test]
    fn equal_tiles_reassemble_the_picture(
        outer in 1..3usize, height in 1..40usize, width in 1..40usize, inner in 1..4usize, factor in 1..4usize,
        quarter in 1..5usize,
    ) {
        let count = outer * height * factor * width * factor * inner;
        let values: Vec<f32> = (0..count).map(|i| (i * 7919 % 1009) as f32).collect();
        let made = through_tiles([outer, height, width, inner], factor, 4 * quarter, &values, |_, value| value);
        for (made, value) in made.iter().zip(&values) {
            prop_assert!((made - value).abs() <= 1e-3, "{made} is not {value}");
        }
    }
}

#[test]
fn blending_weights_are_linear() {
    // Two tiles side by side, of 8 latent pixels: the first is all 0, the second all 1. They
    // overlap by 2.
    let row = through_tiles([1, 1, 12, 1], 2, 8, &[0.0; 48], |number, _| number as f32);
    let fade = [0.0, 0.25, 0.5, 0.75];
    assert_eq!(row[..24], [&[0.0; 12][..], &fade, &[1.0; 8]].concat());
    assert_eq!(row[24..], row[..24]);
    // Four tiles: in the corner the lower right one fades in over the one above it, then over the
    // one to its left.
    let square = through_tiles([1, 12, 12, 1], 1, 8, &[0.0; 144], |number, _| [0.0, 1.0, 2.0, 3.0][number]);
    let at = |y: usize, x: usize| square[y * 12 + x];
    assert_eq!([at(5, 5), at(5, 6), at(5, 7), at(5, 8)], [0.0, 0.0, 0.5, 1.0]);
    assert_eq!([at(7, 5), at(7, 8), at(8, 5), at(8, 8)], [1.0, 2.0, 2.0, 3.0]);
    // The tiles above and to the left are blended already: 0.5 and not 1, 1 and not 2.
    assert_eq!([at(6, 6), at(6, 7), at(7, 6), at(7, 7)], [0.0, 0.25, 1.0, 1.375]);
}

#[test]
fn a_tile_that_is_not_finite_is_refused() {
    let cut = Cut::new(32, &config()).unwrap();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut mosaic = Mosaic::new(1, [1, 2], 1, cut, 1);
        let error = mosaic.add(vec![1.0, value], [1, 2], &level).unwrap_err();
        assert!(matches!(error, Error::NonFinitePicture), "{error}");
    }
}
