//! Tiled decoding and encoding, for pictures whose activations do not fit the device. Each tile
//! goes through the network alone, with its own group norms, and fades into the tiles above it and
//! to its left.
//!
//! The rule is that of `AutoencoderKL` in diffusers: neighbours overlap by a quarter, and in the
//! overlap the weight goes linearly from one tile to the next. A tile is blended with the blended
//! one above it, then with the blended one to its left. Blending runs on the host. A backend would
//! not be faster, because the result has to come to the host anyway and is small next to the
//! network's activations. The picture is never a device tensor, so device memory is bounded by the
//! tile alone. Pixels become bytes only after blending.

use super::Vae;
use crate::backend::{Backend, DeviceTensor, level};
use crate::error::{Error, Result};
use crate::model::config::VaeConfig;
use crate::tensor::HostTensor;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Tile sizes in pixels, in the order in which they are tried. The first is diffusers' for this
/// autoencoder.
const SIZES: [usize; 4] = [1024, 512, 256, 128];
/// Neighbours overlap by 1/`OVERLAP` of a tile.
const OVERLAP: usize = 4;
/// Maximum side of a requested tile, in pixels.
const MAX_TILE: usize = 1 << 16;

/// The tiling of the autoencoder, or none for whole pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VaeTile {
    /// Whole if the device has enough memory, else the largest tiles that fit.
    #[default]
    Auto,
    /// Always whole.
    Off,
    /// Tiles of this many pixels a side, if the picture is larger.
    Pixels(usize),
}

impl VaeTile {
    /// Checks a size against the model's.
    ///
    /// # Errors
    /// [`Error::Request`] for a size whose quarters are not whole latent pixels.
    pub fn check(self, config: &VaeConfig) -> Result<()> {
        let VaeTile::Pixels(pixels) = self else { return Ok(()) };
        let multiple = step(config);
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

/// Tiles are multiples of this many pixels.
fn step(config: &VaeConfig) -> usize {
    OVERLAP * config.scale_factor()
}

/// The tiles that a wish allows for pictures of `[height, width]` pixels, the largest first; `None`
/// is the whole picture.
fn possible(wish: VaeTile, config: &VaeConfig, size: [usize; 2]) -> Vec<Option<usize>> {
    let smaller = |tile: usize| size.iter().any(|&side| side > tile);
    match wish {
        VaeTile::Off => vec![None],
        VaeTile::Pixels(tile) => vec![smaller(tile).then_some(tile)],
        VaeTile::Auto => {
            let fitting = SIZES.into_iter().filter(|&tile| smaller(tile) && tile.is_multiple_of(step(config)));
            std::iter::once(None).chain(fitting.map(Some)).collect()
        }
    }
}

/// The remaining tile sizes for pictures of one size, starting with the current one; `None` is the
/// whole picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiles {
    left: VecDeque<Option<usize>>,
    chosen: bool,
}

impl Tiles {
    /// `largest` returns the elements of the largest activation for a picture of `[height, width]`
    /// pixels; `room` is the maximum.
    fn new(
        wish: VaeTile,
        config: &VaeConfig,
        size: [usize; 2],
        largest: impl Fn([usize; 2]) -> usize,
        room: usize,
    ) -> Self {
        let mut left = VecDeque::from(possible(wish, config, size));
        let fits = |tile: Option<usize>| largest(size.map(|side| side.min(tile.unwrap_or(side)))) <= room;
        // The last one remains: its error names the activation that is too large.
        while left.len() > 1 && !fits(left[0]) {
            left.pop_front();
        }
        Self { left, chosen: wish == VaeTile::Auto }
    }

    /// The side of a tile in pixels; `None` for the whole picture.
    pub fn pixels(&self) -> Option<usize> {
        self.left.front().copied().flatten()
    }

    /// A warning for the user about automatic tiling.
    pub fn warning(&self) -> Option<String> {
        let tile = self.pixels().filter(|_| self.chosen)?;
        Some(format!(
            "the device has no room to decode a whole picture: it was decoded in tiles of {tile}×{tile} pixels, whose \
             colours may differ a little"
        ))
    }

    /// Switches to the next smaller tiles; false if there are none.
    fn shrink(&mut self) -> bool {
        let more = self.left.len() > 1;
        if more {
            self.left.pop_front();
        }
        more
    }
}

/// The tiling of one side: tiles of `tile` latent pixels, `stride` from start to start.
#[derive(Debug, Clone, Copy)]
struct Cut {
    tile: usize,
    stride: usize,
}

impl Cut {
    /// Tiles of this many pixels.
    fn new(tile: usize, config: &VaeConfig) -> Result<Self> {
        VaeTile::Pixels(tile).check(config)?;
        let tile = tile / config.scale_factor();
        Ok(Self { tile, stride: tile - tile / OVERLAP })
    }

    /// The tiles of a side of `len` latent pixels; the last ones may be short.
    fn tiles(self, len: usize) -> impl Iterator<Item = Range<usize>> {
        (0..len).step_by(self.stride).map(move |start| start..len.min(start + self.tile))
    }
}

impl<B: Backend> Vae<B> {
    /// The tiles in which to decode pictures of `[height, width]` pixels: those that the device
    /// allows, and whose activations are at most `room` elements each.
    pub fn decoder_tiles(&self, b: &B, wish: VaeTile, size: [usize; 2], room: usize) -> Tiles {
        let largest = |size| self.config.largest_decoded(size);
        Tiles::new(wish, &self.config, size, largest, b.largest_activation().min(room))
    }

    /// The tiles that a wish allows for pictures of `[height, width]` pixels, the largest first;
    /// `None` is the whole picture.
    pub fn tiles(config: &VaeConfig, wish: VaeTile, size: [usize; 2]) -> Vec<Option<usize>> {
        possible(wish, config, size)
    }

    /// The tiles in which to encode pictures of `[height, width]` pixels.
    pub fn encoder_tiles(&self, b: &B, wish: VaeTile, size: [usize; 2]) -> Tiles {
        let largest = |size| self.config.largest_encoded(size);
        Tiles::new(wish, &self.config, size, largest, b.largest_activation())
    }

    /// One item of latents F32 `[B, C, h, w]` to a picture U8 `[H, W, 3]`, tiled according to
    /// `tiles`; if memory runs out, with the next smaller tiles.
    ///
    /// # Errors
    /// [`Error::NonFinitePicture`] for infinite values or NaN, [`Error::OutOfMemory`] when there
    /// are no smaller tiles, and other errors of the backend.
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
                let latents = part(&b.download(latents).await?, 0, item..item + 1);
                self.decode_tiles(b, &latents, tile).await
            }
            None => picture(b, &self.decode(b, latents, item..item + 1)?).await,
        };
        fitting(b, tiles, decode).await
    }

    /// A picture U8 `[H, W, 3]`, with sides that are multiples of [`VaeConfig::scale_factor`], to
    /// the latents F32 `[1, C, h, w]` of [`Vae::encode`], tiled as in [`Vae::decode_picture`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when there are no smaller tiles, and other errors of the backend.
    pub async fn encode_picture(&self, b: &B, picture: &HostTensor, tiles: &mut Tiles) -> Result<HostTensor> {
        let shape = [&[1], picture.shape()].concat();
        let misshapen = || Error::shape("encode_picture", format!("a picture is [H, W, 3], not {:?}", picture.shape()));
        let pixels = picture.reshaped(&shape).filter(|pixels| pixels.shape().len() == 4).ok_or_else(misshapen)?;
        let encode = async |tile| match tile {
            Some(tile) => self.encode_tiles(b, &pixels, tile).await,
            None => b.download(&self.encode(b, &b.upload(&pixels)?)?).await,
        };
        fitting(b, tiles, encode).await
    }

    async fn decode_tiles(&self, b: &B, latents: &HostTensor, tile: usize) -> Result<HostTensor> {
        let mosaic = self.decoded_mosaic(b, latents, tile, level).await?;
        Ok(HostTensor::from_u8(&[mosaic.size[0], mosaic.size[1], mosaic.inner], &mosaic.values))
    }

    /// Latents F32 `[1, C, h, w]` to F32 `[1, H, W, 3]` between about −1 and 1, in tiles of this
    /// many pixels.
    ///
    /// # Errors
    /// As [`Vae::decode_picture`], with these tiles only.
    pub async fn decode_tiles_unrounded(&self, b: &B, latents: &HostTensor, tile: usize) -> Result<HostTensor> {
        let mosaic = self.decoded_mosaic(b, latents, tile, |value| value).await?;
        Ok(HostTensor::from_f32(&[1, mosaic.size[0], mosaic.size[1], mosaic.inner], &mosaic.values))
    }

    async fn decoded_mosaic<T: Copy + Default>(
        &self,
        b: &B,
        latents: &HostTensor,
        tile: usize,
        finish: impl Fn(f32) -> T,
    ) -> Result<Mosaic<T>> {
        let (cut, factor) = (Cut::new(tile, &self.config)?, self.config.scale_factor());
        let &[1, _, height, width] = latents.shape() else {
            return Err(Error::shape("decode", format!("latents are [1, C, h, w], not {:?}", latents.shape())));
        };
        let mut mosaic = Mosaic::new(1, [height * factor, width * factor], super::RGB, cut, factor);
        let mut last = None;
        for rows in cut.tiles(height) {
            let band = part(latents, 2, rows);
            for columns in cut.tiles(width) {
                let latents = part(&band, 3, columns);
                made_room(b, &mut last, &latents);
                let tile = b.download(&self.decode_unrounded(b, &b.upload(&latents)?, 0..1)?).await?;
                let size = [tile.shape()[1], tile.shape()[2]];
                mosaic.add(tile.to_f32(), size, &finish)?;
            }
        }
        Ok(mosaic)
    }

    async fn encode_tiles(&self, b: &B, pixels: &HostTensor, tile: usize) -> Result<HostTensor> {
        let (cut, factor) = (Cut::new(tile, &self.config)?, self.config.scale_factor());
        let [height, width] = [pixels.shape()[1], pixels.shape()[2]].map(|side| side / factor);
        let channels = self.config.latent_channels;
        let mut mosaic = Mosaic::new(channels, [height, width], 1, cut, 1);
        let mut last = None;
        let scaled = |range: Range<usize>| range.start * factor..range.end * factor;
        for rows in cut.tiles(height) {
            let band = part(pixels, 1, scaled(rows));
            for columns in cut.tiles(width) {
                let pixels = part(&band, 2, scaled(columns));
                made_room(b, &mut last, &pixels);
                let tile = b.download(&self.encode(b, &b.upload(&pixels)?)?).await?;
                let size = [tile.shape()[2], tile.shape()[3]];
                mosaic.add(tile.to_f32(), size, &|value| value)?;
            }
        }
        Ok(HostTensor::from_f32(&[1, channels, height, width], &mosaic.values))
    }
}

/// Downloads pixels U8 `[1, H, W, 3]` as `[H, W, 3]`.
pub(crate) async fn picture<B: Backend>(b: &B, pixels: &B::Tensor) -> Result<HostTensor> {
    let size = pixels.shape()[1..].to_vec();
    b.download(&pixels.reshaped(&size)?).await
}

/// Runs `run` with ever smaller tiles until they fit the device's memory.
async fn fitting<B: Backend, T>(b: &B, tiles: &mut Tiles, run: impl AsyncFn(Option<usize>) -> Result<T>) -> Result<T> {
    loop {
        match run(tiles.pixels()).await {
            Err(Error::OutOfMemory { .. }) if tiles.shrink() => b.trim(),
            result => return result,
        }
    }
}

/// Frees the memory of the last tile before a tile of another shape, which cannot reuse it.
fn made_room<B: Backend>(b: &B, last: &mut Option<Vec<usize>>, tile: &HostTensor) {
    let shape = tile.shape().to_vec();
    if last.as_ref().is_some_and(|last| *last != shape) {
        b.trim();
    }
    *last = Some(shape);
}

/// The entries `range` of a tensor's axis.
fn part(tensor: &HostTensor, axis: usize, range: Range<usize>) -> HostTensor {
    let mut shape = tensor.shape().to_vec();
    let item: usize = shape[axis + 1..].iter().product::<usize>() * tensor.dtype().size();
    let cut =
        tensor.bytes().chunks_exact(shape[axis] * item).flat_map(|axis| &axis[range.start * item..range.end * item]);
    let bytes: Vec<u8> = cut.copied().collect();
    shape[axis] = range.len();
    HostTensor::new(tensor.dtype(), &shape, bytes.into()).expect("as many bytes as the ranges hold")
}

/// A picture or latents, assembled from tiles row by row: `[outer, height, width, inner]`.
struct Mosaic<T> {
    size: [usize; 2],
    inner: usize,
    values: Vec<T>,
    /// Distance between the starts of neighbouring tiles.
    stride: usize,
    overlap: usize,
    /// The corner of the next tile.
    at: [usize; 2],
    /// The last rows of the tiles above: first those from the one above the next tile on, then
    /// those of the tiles before it.
    above: VecDeque<Vec<f32>>,
    /// The last columns of the tile to the left.
    left: Vec<f32>,
}

impl<T: Copy + Default> Mosaic<T> {
    /// `factor` is the number of entries per latent pixel along a side.
    fn new(outer: usize, size: [usize; 2], inner: usize, cut: Cut, factor: usize) -> Self {
        Self {
            size,
            inner,
            values: vec![T::default(); outer * size[0] * size[1] * inner],
            stride: cut.stride * factor,
            overlap: (cut.tile - cut.stride) * factor,
            at: [0, 0],
            above: VecDeque::new(),
            left: Vec::new(),
        }
    }

    /// Blends the next tile `[outer, height, width, inner]` with its neighbours, and stores the
    /// part that no later tile changes.
    fn add(&mut self, mut tile: Vec<f32>, [height, width]: [usize; 2], finish: &impl Fn(f32) -> T) -> Result<()> {
        if !tile.iter().all(|value| value.is_finite()) {
            return Err(Error::NonFinitePicture);
        }
        let (row, inner, overlap) = (width * self.inner, self.inner, self.overlap);
        let [y, x] = self.at;
        if y > 0 {
            let above = self.above.pop_front().unwrap_or_default();
            fade(&mut tile, height, row, &above, overlap);
        }
        if x > 0 {
            fade(&mut tile, width, inner, &self.left, overlap);
        }
        let [below, right] = [y + self.stride < self.size[0], x + self.stride < self.size[1]];
        if below {
            self.above.push_back(tail(&tile, height, row, overlap));
        }
        if right {
            self.left = tail(&tile, width, inner, overlap);
        }
        let (rows, columns) = (height.min(self.stride), width.min(self.stride));
        for (o, plane) in tile.chunks_exact(height * row).enumerate() {
            for (i, from) in plane.chunks_exact(row).take(rows).enumerate() {
                let start = ((o * self.size[0] + y + i) * self.size[1] + x) * inner;
                let to = &mut self.values[start..start + columns * inner];
                to.iter_mut().zip(from).for_each(|(to, &from)| *to = finish(from));
            }
        }
        self.at = if right { [y, x + self.stride] } else { [y + self.stride, 0] };
        Ok(())
    }
}

/// The last `count` entries along an axis of `len` entries of `item` values.
fn tail(values: &[f32], len: usize, item: usize, count: usize) -> Vec<f32> {
    values.chunks_exact(len * item).flat_map(|axis| &axis[(len - count) * item..]).copied().collect()
}

/// Fades `before`, the last `overlap` entries of the neighbour along an axis, into the first
/// entries of a tile that has `len` entries of `item` values. A tile shorter than the overlap ends
/// where its neighbour ends.
fn fade(values: &mut [f32], len: usize, item: usize, before: &[f32], overlap: usize) {
    let extent = overlap.min(len);
    for (axis, before) in values.chunks_exact_mut(len * item).zip(before.chunks_exact(overlap * item)) {
        let before = before[(overlap - extent) * item..].chunks_exact(item);
        for (i, (new, old)) in axis.chunks_exact_mut(item).zip(before).enumerate() {
            let share = i as f64 / extent as f64;
            let (old_share, new_share) = ((1.0 - share) as f32, share as f32);
            new.iter_mut().zip(old).for_each(|(new, &old)| *new = old * old_share + *new * new_share);
        }
    }
}

#[cfg(test)]
mod tests;
