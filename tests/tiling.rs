//! Automatic VAE tiling: a run tiles because the device reports its limits or because it runs out
//! of memory, and draws the picture that it would draw without.

#[allow(dead_code)]
#[path = "support/faulty/mod.rs"]
mod faulty;
#[path = "support/tiles.rs"]
mod tiles;

use faulty::{Fault, Faulty};
use pollster::block_on;
use std::ops::ControlFlow;
use tiles::{coded, errors};
use zimage::backend::cpu::Cpu;
use zimage::backend::*;
use zimage::model::vae::tiling::{Home, Tile};
use zimage::pipeline::Pipeline;
use zimage::pipeline::request::Request;
use zimage::tensor::HostTensor;
use zimage::{Error, Model, Result, RunInfo, VaeTile};

/// The embedded default. These tests examine only its VAE.
fn embedded<B: Backend>(b: B) -> Pipeline<B> {
    block_on(Pipeline::load(b, &Model::embedded().unwrap(), &mut |_| ControlFlow::Continue(()))).unwrap()
}

/// Draws one picture, larger than the tiles of 128 pixels, in one step.
fn draw<B: Backend>(pipeline: &Pipeline<B>, vae_tile: VaeTile) -> Result<(Vec<u8>, RunInfo)> {
    draw_sized(pipeline, [144, 240], vae_tile)
}

/// Draws one picture of `[height, width]` pixels in one step.
fn draw_sized<B: Backend>(
    pipeline: &Pipeline<B>,
    [height, width]: [usize; 2],
    vae_tile: VaeTile,
) -> Result<(Vec<u8>, RunInfo)> {
    let request = Request {
        width: Some(width),
        height: Some(height),
        steps: Some(1),
        seed: 7,
        vae_tile,
        ..Request::new("a red fox, mint background")
    };
    let job = request.check(pipeline.config()).unwrap();
    let (pictures, mut drawn) = block_on(pipeline.generate(&job, &mut |_| ControlFlow::Continue(())))?;
    // The first warning is about the size, which the model was not trained for.
    drawn.warnings.drain(..job.warnings.len());
    Ok((pictures[0].bytes().to_vec(), drawn))
}

/// Peak signal to noise ratio in decibels.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / squares).log10()
}

#[test]
fn tiles_shrink_when_memory_runs_out() {
    let whole = draw(&embedded(Cpu::new()), VaeTile::Auto).unwrap();
    assert_eq!((whole.1.vae_tile, whole.1.warnings.len()), (None, 0));
    let tiled = draw(&embedded(Cpu::new()), VaeTile::Pixels(128)).unwrap();
    assert_eq!((tiled.1.vae_tile, tiled.1.warnings.len()), (Some(128), 0));
    assert!(psnr(&tiled.0, &whole.0) > 60.0, "{:.1} dB", psnr(&tiled.0, &whole.0));

    // The limit fits 48 channels at 128 × 128, but not at the size of the picture.
    let short = |most| embedded(Faulty::new(Cpu::new(), Fault::NoMemoryPast(most)));
    let pipeline = short(128 * 128 * 48);
    let (picture, drawn) = draw(&pipeline, VaeTile::Auto).unwrap();
    assert_eq!((drawn.vae_tile, picture), (Some(128), tiled.0));
    assert!(drawn.warnings.len() == 1 && drawn.warnings[0].contains("tiles of 128×128 pixels"), "{:?}", drawn.warnings);
    // An explicit tile size is not changed, and the failed run reports the missing memory.
    let refused = draw(&pipeline, VaeTile::Off).unwrap_err();
    assert!(
        matches!(&refused, Error::OutOfMemory { problem, .. } if problem.contains("[1, 144, 240, 48]")),
        "{refused}"
    );
    let refused = draw(&short(1 << 10), VaeTile::Auto).unwrap_err();
    assert!(matches!(refused, Error::OutOfMemory { .. }), "{refused}");
}

/// The largest relative distance between tiles of any of these sizes, waiting on the device or in
/// the host's memory, and the whole picture.
fn distance_of_tiles<B: Backend>(pipeline: &Pipeline<B>, size: [usize; 2], tiles: &[usize]) -> f64 {
    let whole = coded(pipeline, size, None);
    let tiles = tiles.iter().flat_map(|&pixels| [Home::Device, Home::Host].map(|home| Tile { pixels, home }));
    tiles.flat_map(|tile| errors(&coded(pipeline, size, Some(tile)), &whole)).fold(0.0, f64::max)
}

#[test]
fn tiles_equal_the_whole_picture() {
    let pipeline = embedded(Cpu::new());
    for (size, tiles) in [([72, 56], &[8, 16, 40, 48][..]), ([8, 104], &[8, 24]), ([120, 8], &[8, 16, 24])] {
        let worst = distance_of_tiles(&pipeline, size, tiles);
        assert!(worst < 2e-6, "{size:?}: {worst:e}");
    }
}

/// The picture of the embedded model at four times its size.
#[test]
fn tiles_have_no_seam() {
    let pipeline = embedded(Cpu::new());
    let draw = |vae_tile| draw_sized(&pipeline, [512, 512], vae_tile).unwrap().0;
    let near = psnr(&draw(VaeTile::Pixels(128)), &draw(VaeTile::Off));
    println!("512×512 in tiles of 128: {near:.1} dB from the whole picture");
    assert!(near >= 45.0, "{near:.1} dB");
}

#[test]
fn invalid_pictures_are_refused() {
    let pipeline = embedded(Cpu::new());
    let (b, vae) = (pipeline.backend(), pipeline.vae());
    let tiles = |wish| vae.decoder_tiles(b, wish, [192, 192], |_| true);
    let latents = HostTensor::from_f32(&[1, 16, 24, 24], &vec![0.5; 16 * 24 * 24]);
    for wish in [VaeTile::Off, VaeTile::Pixels(64)] {
        let refused = block_on(vae.decode_picture(b, &b.upload(&latents).unwrap(), 1, &mut tiles(wish))).unwrap_err();
        assert!(matches!(refused, Error::Shape { .. }), "{refused}");
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut broken = latents.to_f32();
            broken[16 * 24 * 24 - 1] = value;
            let broken = HostTensor::from_f32(&[1, 16, 24, 24], &broken);
            let refused =
                block_on(vae.decode_picture(b, &b.upload(&broken).unwrap(), 0, &mut tiles(wish))).unwrap_err();
            assert!(matches!(refused, Error::NonFinitePicture), "{refused}");
        }
        let gray = HostTensor::from_u8(&[64, 64], &[0; 64 * 64]);
        let refused = block_on(vae.encode_picture(b, &gray, &mut tiles(wish))).unwrap_err();
        assert!(matches!(refused, Error::Shape { .. }), "{refused}");
    }
    let latents = b.upload(&latents).unwrap();
    let refused =
        block_on(vae.decode_tiles_unrounded(b, &latents, 0, Tile { pixels: 100, home: Home::Device })).unwrap_err();
    assert!(matches!(refused, Error::Request(_)), "{refused}");
}

#[cfg(feature = "webgpu")]
mod webgpu {
    use super::*;
    use std::io::Write;
    use zimage::backend::webgpu::{Adapters, Shaders, WebGpu};

    /// The backend on an adapter with a buffer limit of `bytes`. Prints a line and returns `None`
    /// if this machine has no adapter.
    fn limited(bytes: u64) -> Option<WebGpu> {
        let skip = |error| writeln!(std::io::stderr(), "skipped: webgpu: {error}");
        block_on(WebGpu::open_with(Adapters::Any, Shaders::Best, bytes)).map_err(skip).ok()
    }

    #[test]
    fn adapter_with_small_buffers_uses_tiles() {
        // 48 channels at 128 × 128 in F32.
        let most = 128 * 128 * 48 * 4;
        let Some(b) = limited(most) else { return };
        assert_eq!(b.largest_activation() as u64, most / 4);
        let small = embedded(b);
        // Without tiles it fails with one sentence that names the tensor and its size.
        let refused = draw(&small, VaeTile::Off).unwrap_err().to_string();
        assert!(refused.contains("a tensor of shape [1, 144, 240, 48] takes 6.3 MiB"), "{refused}");
        assert!(refused.contains("allows 3.0 MiB for one buffer"), "{refused}");
        // The same pipeline stays usable, and its tiles match those of another backend.
        let (picture, drawn) = draw(&small, VaeTile::Auto).unwrap();
        assert_eq!((drawn.vae_tile, drawn.warnings.len()), (Some(128), 1));
        let (reference, _) = draw(&embedded(Cpu::new()), VaeTile::Off).unwrap();
        let near = psnr(&picture, &reference);
        assert!(near > 40.0, "{near:.1} dB");
    }

    #[test]
    fn tiles_equal_the_whole_picture() {
        let Some(b) = limited(u64::MAX) else { return };
        let worst = distance_of_tiles(&embedded(b), [40, 72], &[8, 24, 48]);
        assert!(worst < 1e-5, "{worst:e}");
    }
}
