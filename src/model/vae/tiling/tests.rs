//! Choosing tiles, without a network.

use super::*;

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

/// The tiles of a wish for activations of up to `room` elements.
fn new(wish: VaeTile, size: [usize; 2], room: usize) -> Tiles {
    let config = config();
    Tiles::new(wish, &config, size, |tile| config.largest_decoded(square(tile, size)) <= room)
}

/// The sizes of these tiles, which wait on the device first and then, in the same sizes, in the
/// host's memory. The whole picture comes before them.
fn tiles(wish: VaeTile, size: [usize; 2], room: usize) -> Vec<Option<usize>> {
    let left = Vec::from(new(wish, size, room).left);
    let whole: Vec<_> = left.iter().filter(|tile| tile.is_none()).map(|_| None).collect();
    let at = |home| left.iter().flatten().filter(move |tile| tile.home == home).map(|tile| tile.pixels);
    let sizes: Vec<usize> = at(Home::Device).collect();
    let in_order = [Home::Device, Home::Host].map(|home| sizes.iter().map(move |&pixels| Some(Tile { pixels, home })));
    assert!(left.iter().copied().eq(whole.iter().map(|_: &Option<usize>| None).chain(in_order.into_iter().flatten())));
    whole.into_iter().chain(sizes.into_iter().map(Some)).collect()
}

#[test]
fn the_fastest_tiles_that_fit_come_first() {
    let all = [None, Some(1024), Some(512), Some(256), Some(128)];
    assert_eq!(tiles(VaeTile::Auto, [2048, 2048], usize::MAX), all);
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], usize::MAX), [None, Some(512), Some(256), Some(128)]);
    assert_eq!(tiles(VaeTile::Auto, [1024, 1040], usize::MAX), all);
    assert_eq!(tiles(VaeTile::Auto, [64, 128], usize::MAX), [None]);
    // 128 MiB of F32, the limit of a browser: 362² pixels of 256 channels.
    let browser = (128 << 20) / 4;
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], browser), all[3..]);
    // As many pixels as 361².
    let wide = [None, Some(256), Some(128)];
    assert_eq!(tiles(VaeTile::Auto, [128, 1018], browser), wide);
    assert_eq!(tiles(VaeTile::Auto, [128, 1032], browser), wide[1..]);
    let exactly = 512 * 512 * 256;
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], exactly), all[2..]);
    assert_eq!(tiles(VaeTile::Auto, [1024, 1024], exactly - 1), all[3..]);
    // If nothing fits, the smallest tile remains and reports the error.
    let smallest = Tile { pixels: 128, home: Home::Host };
    assert_eq!(new(VaeTile::Auto, [1024, 1024], 1).left, [Some(smallest)]);
    assert_eq!(tiles(VaeTile::Auto, [96, 96], 1), [None]);
    // Requested tiles are used as they are.
    assert_eq!(tiles(VaeTile::Off, [1024, 1024], 1), [None]);
    assert_eq!(tiles(VaeTile::Pixels(96), [72, 136], usize::MAX), [Some(96)]);
    assert_eq!(tiles(VaeTile::Pixels(96), [64, 128], usize::MAX), [None], "fewer pixels than 96²");
    assert_eq!(tiles(VaeTile::Pixels(96), [96, 96], usize::MAX), [None]);
}

#[test]
fn automatic_tiles_cause_a_warning() {
    let new = |wish, room| new(wish, [640, 640], room);
    assert_eq!(new(VaeTile::Auto, usize::MAX).warning(), None);
    assert_eq!(new(VaeTile::Pixels(128), usize::MAX).warning(), None);
    let mut tiles = new(VaeTile::Auto, 256 * 256 * 256);
    let warning = tiles.warning().unwrap();
    assert!(warning.contains("tiles of 256×256 pixels"), "{warning}");
    for (pixels, home) in [(128, Home::Device), (256, Home::Host), (128, Home::Host)] {
        assert!(tiles.next());
        assert_eq!(tiles.current(), Some(Tile { pixels, home }));
    }
    assert!(!tiles.next() && tiles.pixels() == Some(128));
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
    for (pixels, instead) in [(0, 8), (7, 8), (100, 96), (65_544, 65_536), (usize::MAX, 65_536)] {
        let sentence = VaeTile::Pixels(pixels).check(&config()).unwrap_err().to_string();
        let expected = format!("tiles of {pixels} pixels are not a positive multiple of 8 up to 65536: use {instead}");
        assert_eq!(sentence, expected);
    }
}
