//! Tiled decoding and encoding, for pictures whose activations do not fit the device.
//!
//! A tile is a band of whole rows, through one convolution at a time: `bands`. The norms use the
//! moments of the whole picture, so a tiled picture equals an untiled one up to rounding. A tile's
//! size N bounds each tensor: none on the device is larger than the largest of a picture of N×N
//! pixels. The exceptions are a single row of a wide picture, and the middle of the network, whose
//! attention sees all latents at once: it runs whole, at an eighth of the picture's sides. Between
//! two convolutions the rows of an activation wait on the device, which takes less than half of the
//! memory of a whole picture, or in the host's memory, which takes little and is slow.

mod bands;
mod moments;
mod rows;

use super::{DOWN, UP, Vae};
use crate::backend::{Backend, DeviceTensor};
use crate::error::{Error, Result};
use crate::model::config::VaeConfig;
use crate::tensor::HostTensor;
use bands::Bands;
use rows::Rows;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// Tile sizes in pixels, in the order in which they are tried.
const SIZES: [usize; 4] = [1024, 512, 256, 128];
/// Maximum side of a requested tile, in pixels.
const MAX_TILE: usize = 1 << 16;

/// The tiling of the autoencoder, or none for whole pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VaeTile {
    /// Whole if the device has enough memory, else the fastest tiles that fit.
    #[default]
    Auto,
    /// Always whole.
    Off,
    /// In tiles with activations no larger than those of a square picture of this many pixels a
    /// side, if the picture is larger.
    Pixels(usize),
}

impl VaeTile {
    /// Checks a size against the model's.
    ///
    /// # Errors
    /// [`Error::Request`] for a size that is not whole latent pixels.
    pub fn check(self, config: &VaeConfig) -> Result<()> {
        let VaeTile::Pixels(pixels) = self else { return Ok(()) };
        let multiple = config.scale_factor();
        if (1..=MAX_TILE).contains(&pixels) && pixels.is_multiple_of(multiple) {
            return Ok(());
        }
        let below = (pixels.min(MAX_TILE) / multiple * multiple).max(multiple);
        Err(Error::Request(format!(
            "tiles of {pixels} pixels are not a positive multiple of {multiple} up to {MAX_TILE}: use {below}"
        )))
    }
}

impl FromStr for VaeTile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(VaeTile::Auto),
            "off" => Ok(VaeTile::Off),
            _ => text.parse().map(VaeTile::Pixels).map_err(|_| {
                Error::Request(format!("tiles of {text:?} are not possible: use auto, off, or a number of pixels"))
            }),
        }
    }
}

impl fmt::Display for VaeTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VaeTile::Auto => f.write_str("auto"),
            VaeTile::Off => f.write_str("off"),
            VaeTile::Pixels(pixels) => write!(f, "{pixels}"),
        }
    }
}

/// The place where the activations of a tiled picture wait between two convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// The device's memory.
    Device,
    /// The host's memory.
    Host,
}

/// The tiles of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// No activation of a tile is larger than the largest of a square picture of this many pixels a
    /// side.
    pub pixels: usize,
    /// The place where activations wait.
    pub home: Home,
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pixels, home } = self;
        let home = match home {
            Home::Device => "on the device",
            Home::Host => "in the host's memory",
        };
        write!(f, "tiles of {pixels}×{pixels} that wait {home}")
    }
}

/// The tiles that a wish allows for pictures of `[height, width]` pixels, the fastest first; `None`
/// is the whole picture.
fn possible(wish: VaeTile, config: &VaeConfig, size: [usize; 2]) -> Vec<Option<Tile>> {
    let smaller = |tile: usize| size[0].saturating_mul(size[1]) > tile.saturating_mul(tile);
    let at = |sizes: &[usize]| -> Vec<Option<Tile>> {
        let homes = [Home::Device, Home::Host].into_iter();
        homes.flat_map(|home| sizes.iter().map(move |&pixels| Some(Tile { pixels, home }))).collect()
    };
    match wish {
        VaeTile::Off => vec![None],
        VaeTile::Pixels(tile) if smaller(tile) => at(&[tile]),
        VaeTile::Pixels(_) => vec![None],
        VaeTile::Auto => {
            let mut sizes = SIZES.to_vec();
            sizes.retain(|&tile| smaller(tile) && tile.is_multiple_of(config.scale_factor()));
            [vec![None], at(&sizes)].concat()
        }
    }
}

/// The remaining tiles for pictures of one size, starting with the current ones; `None` is the
/// whole picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiles {
    left: VecDeque<Option<Tile>>,
    chosen: bool,
}

impl Tiles {
    /// The tiles of a wish that fit, or the smallest: its error names the activation that is too
    /// large.
    fn new(wish: VaeTile, config: &VaeConfig, size: [usize; 2], fits: impl Fn(Option<Tile>) -> bool) -> Self {
        let possible = possible(wish, config, size);
        let mut left: VecDeque<Option<Tile>> = possible.iter().copied().filter(|tile| fits(*tile)).collect();
        if left.is_empty() {
            left.extend(possible.last());
        }
        Self { left, chosen: wish == VaeTile::Auto }
    }

    /// These tiles only.
    pub fn of(tile: Option<Tile>) -> Self {
        Self { left: VecDeque::from([tile]), chosen: false }
    }

    /// The current tiles; `None` for the whole picture.
    pub fn current(&self) -> Option<Tile> {
        self.left.front().copied().flatten()
    }

    /// The side of a tile in pixels; `None` for the whole picture.
    pub fn pixels(&self) -> Option<usize> {
        self.current().map(|tile| tile.pixels)
    }

    /// A warning for the user about automatic tiling.
    pub fn warning(&self) -> Option<String> {
        let tile = self.pixels().filter(|_| self.chosen)?;
        Some(format!(
            "the device has no room to decode a whole picture: it was decoded in tiles of {tile}×{tile} pixels, \
             which takes longer"
        ))
    }

    /// Switches to the next tiles, which take less memory; false if there are none.
    fn next(&mut self) -> bool {
        let more = self.left.len() > 1;
        if more {
            self.left.pop_front();
        }
        more
    }
}

impl<B: Backend> Vae<B> {
    /// The tiles in which to decode pictures of `[height, width]` pixels: those that `fits`, and
    /// whose activations the device allows.
    pub fn decoder_tiles(&self, b: &B, wish: VaeTile, size: [usize; 2], fits: impl Fn(Option<Tile>) -> bool) -> Tiles {
        let is_allowed = |tile| self.config.largest_decoded(square(tile, size)) <= b.largest_activation();
        Tiles::new(wish, &self.config, size, |tile| is_allowed(tile) && fits(tile))
    }

    /// The tiles that a wish and the device allow for pictures of `[height, width]` pixels, the
    /// fastest first, or the smallest alone; `None` is the whole picture.
    pub fn tiles(b: &B, config: &VaeConfig, wish: VaeTile, size: [usize; 2]) -> Vec<Option<Tile>> {
        let is_allowed = |tile| config.largest_decoded(square(tile, size)) <= b.largest_activation();
        Tiles::new(wish, config, size, is_allowed).left.into()
    }

    /// The tiles in which to encode pictures of `[height, width]` pixels.
    pub fn encoder_tiles(&self, b: &B, wish: VaeTile, size: [usize; 2]) -> Tiles {
        let is_allowed = |tile| self.config.largest_encoded(square(tile, size)) <= b.largest_activation();
        Tiles::new(wish, &self.config, size, is_allowed)
    }

    /// One item of latents F32 `[B, C, h, w]` to a picture U8 `[H, W, 3]`, tiled according to
    /// `tiles`; if memory runs out, in the next tiles.
    ///
    /// # Errors
    /// [`Error::NonFinitePicture`] for infinite values or NaN, [`Error::OutOfMemory`] when there
    /// are no other tiles, and other errors of the backend.
    pub async fn decode_picture(
        &self,
        b: &B,
        latents: &B::Tensor,
        item: usize,
        tiles: &mut Tiles,
    ) -> Result<HostTensor> {
        if item >= latents.shape()[0] {
            return Err(Error::shape("decode", format!("latents {:?} have no item {item}", latents.shape())));
        }
        let decode = async |tile| match tile {
            Some(tile) => {
                let pixels = self.decode_in_tiles(b, latents, item, tile, |x| b.to_rgb8(&x)).await?;
                Ok(pixels.reshaped(&pixels.shape()[1..]).unwrap_or(pixels))
            }
            None => picture(b, &self.decode(b, latents, item..item + 1)?).await,
        };
        fitting(b, tiles, decode).await
    }

    /// A picture U8 `[H, W, 3]`, with sides that are multiples of [`VaeConfig::scale_factor`], to
    /// the latents F32 `[1, C, h, w]` of [`Vae::encode`], tiled as in [`Vae::decode_picture`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when there are no other tiles, and other errors of the backend.
    pub async fn encode_picture(&self, b: &B, picture: &HostTensor, tiles: &mut Tiles) -> Result<HostTensor> {
        let shape = [&[1], picture.shape()].concat();
        let misshapen = || Error::shape("encode_picture", format!("a picture is [H, W, 3], not {:?}", picture.shape()));
        let pixels = picture.reshaped(&shape).filter(|pixels| pixels.shape().len() == 4).ok_or_else(misshapen)?;
        let encode = async |tile| match tile {
            Some(tile) => self.encode_in_tiles(b, &pixels, tile).await,
            None => b.download(&self.encode(b, &b.upload(&pixels)?)?).await,
        };
        fitting(b, tiles, encode).await
    }

    /// One item of latents F32 `[B, C, h, w]` to an activation `[1, H, W, 3]` between about −1 and
    /// 1, in tiles.
    ///
    /// # Errors
    /// As [`Vae::decode_picture`], with these tiles only.
    pub async fn decode_tiles_unrounded(
        &self,
        b: &B,
        latents: &B::Tensor,
        item: usize,
        tile: Tile,
    ) -> Result<HostTensor> {
        VaeTile::Pixels(tile.pixels).check(&self.config)?;
        self.decode_in_tiles(b, latents, item, tile, Ok).await
    }

    /// The decoded rows `[1, H, W, 3]`, each band of them through `finish`.
    async fn decode_in_tiles(
        &self,
        b: &B,
        latents: &B::Tensor,
        item: usize,
        tile: Tile,
        finish: impl Fn(B::Tensor) -> Result<B::Tensor>,
    ) -> Result<HostTensor> {
        let bands = self.bands(b, self.config.largest_decoded([tile.pixels; 2]), tile.home);
        let mut x = bands.whole(self.decode_middle(b, latents, item..item + 1)?).await?;
        for level in &self.decoder.levels {
            x = level.forward_in_bands(&bands, x, UP).await?;
        }
        let rows = self.decoder.finish_in_bands(&bands, x, finish).await?;
        rows.on_host(0..rows.height())
    }

    /// Bands of tensors of up to `limit` elements.
    fn bands<'a>(&self, b: &'a B, limit: usize, home: Home) -> Bands<'a, B> {
        Bands { b, limit, groups: self.config.norm_num_groups, home }
    }

    async fn encode_in_tiles(&self, b: &B, pixels: &HostTensor, tile: Tile) -> Result<HostTensor> {
        let bands = self.bands(b, self.config.largest_encoded([tile.pixels; 2]), tile.home);
        let encoder = self.encoder()?;
        let mut x = encoder.coder.start_in_bands(&bands, Rows::of(pixels.clone())).await?;
        for level in &encoder.coder.levels {
            x = level.forward_in_bands(&bands, x, DOWN).await?;
        }
        let rows = x.into_rows();
        let x = rows.on_device(b, 0..rows.height())?;
        drop(rows);
        b.download(&self.encode_middle(b, encoder, x)?).await
    }
}

/// The size of the picture whose largest activation is that of a tile.
fn square(tile: Option<Tile>, size: [usize; 2]) -> [usize; 2] {
    tile.map_or(size, |tile| [tile.pixels; 2])
}

/// Downloads pixels U8 `[1, H, W, 3]` as `[H, W, 3]`.
pub(crate) async fn picture<B: Backend>(b: &B, pixels: &B::Tensor) -> Result<HostTensor> {
    let size = pixels.shape()[1..].to_vec();
    b.download(&pixels.reshaped(&size)?).await
}

/// Runs `run` in one kind of tiles after the other until they fit the device's memory.
async fn fitting<B: Backend, T>(b: &B, tiles: &mut Tiles, run: impl AsyncFn(Option<Tile>) -> Result<T>) -> Result<T> {
    loop {
        match run(tiles.current()).await {
            Err(Error::OutOfMemory { .. }) if tiles.next() => b.trim(),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
