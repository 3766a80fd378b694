//! Automatic VAE tiling: a run tiles because the device reports its limits or because it runs out
//! of memory. The goldens compare the tiles with those of diffusers.

#[allow(dead_code)]
#[path = "support/faulty/mod.rs"]
mod faulty;

use faulty::{Fault, Faulty};
use pollster::block_on;
use std::ops::ControlFlow;
use zimage::backend::cpu::Cpu;
use zimage::backend::*;
use zimage::pipeline::Pipeline;
use zimage::pipeline::request::Request;
use zimage::tensor::{DType, HostTensor};
use zimage::{Error, Model, Result, RunInfo, VaeTile};

/// The embedded default. These tests examine only its VAE.
fn embedded<B: Backend>(b: B) -> Pipeline<B> {
    block_on(Pipeline::load(b, &Model::embedded().unwrap(), &mut |_| ControlFlow::Continue(()))).unwrap()
}

/// Draws one picture, larger than the tiles of 128 pixels, in one step.
fn draw<B: Backend>(pipeline: &Pipeline<B>, vae_tile: VaeTile) -> Result<(Vec<u8>, RunInfo)> {
    let request = Request {
        width: Some(240),
        height: Some(144),
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
    assert_ne!(tiled.0, whole.0, "tiles have norms of their own");

    // The limit fits 64 channels at 128 × 128, but not at the size of the picture.
    let short = |most| embedded(Faulty::new(Cpu::new(), Fault::NoMemoryPast(most)));
    let pipeline = short(128 * 128 * 64);
    let (picture, drawn) = draw(&pipeline, VaeTile::Auto).unwrap();
    assert_eq!((drawn.vae_tile, picture), (Some(128), tiled.0));
    assert!(drawn.warnings.len() == 1 && drawn.warnings[0].contains("tiles of 128×128 pixels"), "{:?}", drawn.warnings);
    // An explicit tile size is not changed, and the failed run reports the missing memory.
    let refused = draw(&pipeline, VaeTile::Off).unwrap_err();
    assert!(
        matches!(&refused, Error::OutOfMemory { problem, .. } if problem.contains("[1, 144, 240, 64]")),
        "{refused}"
    );
    let refused = draw(&short(1 << 10), VaeTile::Auto).unwrap_err();
    assert!(matches!(refused, Error::OutOfMemory { .. }), "{refused}");
}

/// A smooth picture of waves.
fn waves(height: usize, width: usize) -> HostTensor {
    let pixel = |i: usize| {
        let (y, x, c) = ((i / 3 / width) as f32, (i / 3 % width) as f32, (i % 3) as f32);
        (127.5 + 60.0 * (x / (31.0 + 9.0 * c)).sin() + 60.0 * (y / (47.0 - 8.0 * c)).cos()) as u8
    };
    HostTensor::from_u8(&[height, width, 3], &(0..height * width * 3).map(pixel).collect::<Vec<_>>())
}

/// Tiles leave no visible seam: an encode-decode round trip in tiles is close to one without tiles.
#[test]
fn tiling_barely_changes_a_smooth_picture() {
    let pipeline = embedded(Cpu::new());
    let (b, vae) = (pipeline.backend(), pipeline.vae());
    let size = [208, 176];
    let picture = waves(size[0], size[1]);
    let both_ways = |wish| {
        let latents = block_on(vae.encode_picture(b, &picture, &mut vae.encoder_tiles(b, wish, size))).unwrap();
        assert_eq!((latents.shape(), latents.dtype()), (&[1, 16, 26, 22][..], DType::F32));
        let decoded = block_on(vae.decode_picture(
            b,
            &b.upload(&latents).unwrap(),
            0,
            &mut vae.decoder_tiles(b, wish, size, usize::MAX),
        ))
        .unwrap();
        assert_eq!(decoded.shape(), picture.shape());
        decoded
    };
    let whole = both_ways(VaeTile::Auto);
    let tiled = both_ways(VaeTile::Pixels(128));
    let (near, lost) = (psnr(tiled.bytes(), whole.bytes()), psnr(tiled.bytes(), picture.bytes()));
    assert!(near > 30.0, "{near:.1} dB from the whole picture");
    assert!(lost > 25.0, "{lost:.1} dB from where it began");
}

#[test]
fn invalid_pictures_are_refused() {
    let pipeline = embedded(Cpu::new());
    let (b, vae) = (pipeline.backend(), pipeline.vae());
    let tiles = |wish| vae.decoder_tiles(b, wish, [192, 192], usize::MAX);
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
    let refused = block_on(vae.decode_tiles_unrounded(b, &latents, 100)).unwrap_err();
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
        // 64 channels at 128 × 128 in F32.
        let most = 128 * 128 * 64 * 4;
        let Some(b) = limited(most) else { return };
        assert_eq!(b.largest_activation() as u64, most / 4);
        let small = embedded(b);
        // Without tiles it fails with one sentence that names the tensor and its size.
        let refused = draw(&small, VaeTile::Off).unwrap_err().to_string();
        assert!(refused.contains("a tensor of shape [1, 144, 240, 64] takes 8.4 MiB"), "{refused}");
        assert!(refused.contains("allows 4.0 MiB for one buffer"), "{refused}");
        // The same pipeline stays usable, and its tiles match those of another backend.
        let (picture, drawn) = draw(&small, VaeTile::Auto).unwrap();
        assert_eq!((drawn.vae_tile, drawn.warnings.len()), (Some(128), 1));
        let (reference, _) = draw(&embedded(Cpu::new()), VaeTile::Pixels(128)).unwrap();
        let near = psnr(&picture, &reference);
        assert!(near > 40.0, "{near:.1} dB");
    }
}
