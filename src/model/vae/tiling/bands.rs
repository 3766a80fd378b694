//! Layers of the autoencoder in bands: whole rows of a picture, as many as fit the device.
//!
//! Between two convolutions an activation waits on the device or in the host's memory. A band is
//! taken with the rows above and below it that its convolution sees, normed by the moments of the
//! whole activation, and convolved. So a picture in bands equals the whole picture up to rounding,
//! and has no seam.

use super::Home;
use super::moments::Moments;
use super::rows::{Piece, Rows};
use crate::backend::{Backend, Conv2d, DeviceTensor, DeviceWeight};
use crate::error::Result;
use crate::model::config::VaeConfig;
use crate::model::vae::{Coder, Level, Norm, POINTWISE, Resnet, SAME};
use std::ops::Range;

/// The rows of one band.
#[derive(Debug, PartialEq, Eq)]
struct Band {
    /// The rows of the input that the convolution sees.
    input: Range<usize>,
    /// The rows of the output.
    output: Range<usize>,
    /// The convolution of these input rows. Only the picture's own edges are padded.
    geometry: Conv2d,
    /// Rows that this convolution makes above `output`, from incomplete input.
    above: usize,
}

/// A convolution of a picture.
#[derive(Debug, Clone, Copy)]
struct Layer {
    /// `[O, kh, kw, I]`.
    kernel: [usize; 4],
    geometry: Conv2d,
    /// Height and width of the input.
    input: [usize; 2],
    /// Channels of the tensor that is added to the output, or 0.
    residual: usize,
}

impl Layer {
    fn new<B: Backend>(
        conv: &B::Conv2d,
        geometry: Conv2d,
        x: &Rows<B::Tensor>,
        residual: Option<&Rows<B::Tensor>>,
    ) -> Self {
        let residual = residual.map_or(0, |rows| rows.pixels()[1]);
        Self { kernel: conv.dims(), geometry, input: [x.height(), x.pixels()[0]], residual }
    }

    /// Height and width of the output.
    fn output(&self) -> [usize; 2] {
        let Conv2d { stride, pad: [top, left, bottom, right], upsample } = self.geometry;
        let side = |i: usize, pad: usize| {
            let size = self.input[i] << usize::from(upsample);
            (size + pad - self.kernel[1 + i]) / stride + 1
        };
        [side(0, top + bottom), side(1, left + right)]
    }

    /// The band of these rows of the output; both ends are even with upsampling.
    fn band(&self, output: Range<usize>) -> Band {
        let (height, geometry) = (self.input[0], self.geometry);
        let Conv2d { stride, pad: [top, left, _, right], upsample } = geometry;
        if upsample {
            // The padding stays, and the rows that it makes wrong are cut off: the backends are
            // faster with the geometry of the whole picture. A 3×3 kernel sees one more input row.
            let input = (output.start / 2).saturating_sub(1)..height.min(output.end / 2 + 1);
            let above = output.start - 2 * input.start;
            return Band { input, output, geometry, above };
        }
        // Rows of the padded picture.
        let (start, end) = (output.start * stride, (output.end - 1) * stride + self.kernel[1]);
        let input = start.saturating_sub(top)..height.min(end - top);
        let pad = [top.saturating_sub(start), left, (end - top).saturating_sub(height), right];
        Band { input, output, geometry: Conv2d { pad, ..geometry }, above: 0 }
    }

    /// Bands from top to bottom. No tensor of a band has more than `limit` elements, unless one row
    /// of output already needs more. The first band is the largest, so the others fit its memory.
    fn bands(self, limit: usize) -> impl Iterator<Item = Band> {
        let [height, width] = self.output();
        let [out, kernel, _, channels] = self.kernel;
        let Conv2d { stride, pad: [top, ..], upsample } = self.geometry;
        let rows = |row: usize| limit / row.max(1);
        let (input, output) = (rows(self.input[1] * channels), rows(width * out.max(self.residual)));
        // The rows of an inner band, and by how many the first is larger.
        let (step, more) = match upsample {
            true => (2 * input.min(output / 2).saturating_sub(2).max(1), 2),
            false => ((input.saturating_sub(kernel - stride) / stride).min(output.saturating_sub(top)).max(1), top),
        };
        let starts = std::iter::once(0).chain((step + more..height).step_by(step));
        let ends = (step + more..height).step_by(step).chain([height]);
        starts.zip(ends).map(move |(start, end)| self.band(start..end))
    }
}

/// An activation with the moments of its groups.
#[derive(Debug)]
pub(super) struct Activation<B: Backend> {
    rows: Rows<B::Tensor>,
    /// Values of a group in each band, and their mean and variance F32 `[1, groups, 2]`.
    moments: Vec<(usize, B::Tensor)>,
}

impl<B: Backend> Activation<B> {
    fn new() -> Self {
        Self { rows: Rows::default(), moments: Vec::new() }
    }

    /// All rows.
    pub(super) fn into_rows(self) -> Rows<B::Tensor> {
        self.rows
    }

    /// Mean and variance of each group over all rows, F32 `[1, groups, 2]`.
    async fn moments(&self, b: &B) -> Result<B::Tensor> {
        let mut all = Moments::default();
        for (count, band) in &self.moments {
            all.add(*count, &b.download(band).await?);
        }
        b.upload(&all.tensor())
    }
}

/// The execution of layers in bands on a device.
#[derive(Debug)]
pub(super) struct Bands<'a, B> {
    pub b: &'a B,
    /// Elements of the largest tensor of a band.
    pub limit: usize,
    /// Groups of every norm.
    pub groups: usize,
    /// The place where activations wait.
    pub home: Home,
}

impl<B: Backend> Bands<'_, B> {
    /// A whole activation `[1, H, W, C]`.
    pub(super) async fn whole(&self, x: B::Tensor) -> Result<Activation<B>> {
        let mut made = Activation::new();
        let rows = 0..x.shape()[1];
        self.add(&mut made, x, rows).await?;
        Ok(made)
    }

    /// Runs `layer`, which contains the convolution `conv`, and returns its output with moments.
    /// `layer` gets a band of `x`, the output's rows of `residual`, and the geometry for the band.
    pub(super) async fn run(
        &self,
        conv: &B::Conv2d,
        geometry: Conv2d,
        x: Rows<B::Tensor>,
        residual: Option<Rows<B::Tensor>>,
        layer: impl Fn(B::Tensor, Option<B::Tensor>, Conv2d) -> Result<B::Tensor>,
    ) -> Result<Activation<B>> {
        let mut made = Activation::new();
        let keep = async |out, kept, _: &B::Tensor, _| self.add(&mut made, out, kept).await;
        self.each(conv, geometry, x, residual, layer, keep).await?;
        Ok(made)
    }

    /// As [`Bands::run`] with a convolution that keeps the size, and a second, pointwise one of the
    /// same rows, which needs no moments.
    async fn run_both(
        &self,
        conv: &B::Conv2d,
        x: Rows<B::Tensor>,
        layer: impl Fn(B::Tensor, Option<B::Tensor>, Conv2d) -> Result<B::Tensor>,
        shortcut: &B::Conv2d,
    ) -> Result<(Activation<B>, Rows<B::Tensor>)> {
        let (mut made, mut beside) = (Activation::new(), Rows::default());
        let keep = async |out, kept, band: &B::Tensor, same: Range<usize>| {
            let rows = Self::cut(self.b, band, same)?;
            beside.push(self.waiting(self.b.conv2d(&rows, shortcut, POINTWISE, None)?).await?);
            self.add(&mut made, out, kept).await
        };
        self.each(conv, SAME, x, None, layer, keep).await?;
        Ok((made, beside))
    }

    /// As [`Bands::run`], to the host's memory and without moments.
    pub(super) async fn run_last(
        &self,
        conv: &B::Conv2d,
        geometry: Conv2d,
        x: Rows<B::Tensor>,
        layer: impl Fn(B::Tensor, Option<B::Tensor>, Conv2d) -> Result<B::Tensor>,
    ) -> Result<Rows<B::Tensor>> {
        let mut rows = Rows::default();
        let keep = async |out: B::Tensor, kept: Range<usize>, _: &B::Tensor, _| {
            debug_assert_eq!(kept, 0..out.shape()[1], "only upsampling makes rows that are not kept");
            rows.push(Piece::Host(self.b.download(&out).await?));
            Ok(())
        };
        self.each(conv, geometry, x, None, layer, keep).await?;
        Ok(rows)
    }

    /// Runs `layer` on each band. `keep` gets its output and the rows to keep of it, and the band
    /// with the rows of it that have the same place, unless `geometry` changes the size.
    async fn each(
        &self,
        conv: &B::Conv2d,
        geometry: Conv2d,
        mut x: Rows<B::Tensor>,
        mut residual: Option<Rows<B::Tensor>>,
        layer: impl Fn(B::Tensor, Option<B::Tensor>, Conv2d) -> Result<B::Tensor>,
        mut keep: impl AsyncFnMut(B::Tensor, Range<usize>, &B::Tensor, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let b = self.b;
        let layer_of = Layer::new::<B>(conv, geometry, &x, residual.as_ref());
        // The sizes of the layer before do not come again.
        b.trim();
        for Band { input, output, geometry, above } in layer_of.bands(self.limit) {
            x.free_above(input.start);
            let same = output.start.saturating_sub(input.start)..output.end.saturating_sub(input.start);
            let band = x.on_device(b, input)?;
            let added = match &mut residual {
                Some(rows) => {
                    rows.free_above(output.start);
                    Some(rows.on_device(b, output.clone())?)
                }
                None => None,
            };
            let out = layer(band.clone(), added, geometry)?;
            keep(out, above..above + output.len(), &band, same).await?;
        }
        Ok(())
    }

    /// Adds the rows `kept` of `x` `[1, n, W, C]` to an activation.
    async fn add(&self, to: &mut Activation<B>, x: B::Tensor, kept: Range<usize>) -> Result<()> {
        let x = Self::cut(self.b, &x, kept)?;
        let values = x.shape().iter().product::<usize>() / self.groups;
        to.moments.push((values, self.b.group_moments(&x, self.groups)?));
        to.rows.push(self.waiting(x).await?);
        Ok(())
    }

    /// Some rows of `x` `[1, n, W, C]`.
    fn cut(b: &B, x: &B::Tensor, rows: Range<usize>) -> Result<B::Tensor> {
        if rows.len() == x.shape()[1] { Ok(x.clone()) } else { b.concat_rows(&[(x, rows)]) }
    }

    /// Rows in the place where activations wait.
    async fn waiting(&self, x: B::Tensor) -> Result<Piece<B::Tensor>> {
        Ok(match self.home {
            Home::Device => Piece::Device(x),
            Home::Host => Piece::Host(self.b.download(&x).await?),
        })
    }
}

impl<B: Backend> Coder<B> {
    /// Pixels U8 `[1, H, W, 3]` to the activation before the levels.
    pub(super) async fn start_in_bands(&self, bands: &Bands<'_, B>, pixels: Rows<B::Tensor>) -> Result<Activation<B>> {
        let b = bands.b;
        let layer = |pixels: B::Tensor, _, geometry| {
            let x = b.normalize_rgb8(&pixels)?;
            b.conv2d(&x, &self.conv_in, geometry, None)
        };
        bands.run(&self.conv_in, SAME, pixels, None, layer).await
    }

    /// The last norm and convolution, and then `finish`.
    pub(super) async fn finish_in_bands(
        &self,
        bands: &Bands<'_, B>,
        x: Activation<B>,
        finish: impl Fn(B::Tensor) -> Result<B::Tensor>,
    ) -> Result<Rows<B::Tensor>> {
        let b = bands.b;
        let moments = x.moments(b).await?;
        let layer = |x: B::Tensor, _, geometry| {
            let h = self.norm_out.by_moments(b, x, &moments)?;
            finish(b.conv2d(&h, &self.conv_out, geometry, None)?)
        };
        bands.run_last(&self.conv_out, SAME, x.rows, layer).await
    }
}

impl<B: Backend> Level<B> {
    pub(super) async fn forward_in_bands(
        &self,
        bands: &Bands<'_, B>,
        mut x: Activation<B>,
        resample: Conv2d,
    ) -> Result<Activation<B>> {
        for resnet in &self.resnets {
            x = resnet.forward_in_bands(bands, x).await?;
        }
        let Some(conv) = &self.resample else { return Ok(x) };
        let layer = |x: B::Tensor, _, geometry| bands.b.conv2d(&x, conv, geometry, None);
        bands.run(conv, resample, x.rows, None, layer).await
    }
}

impl<B: Backend> Resnet<B> {
    async fn forward_in_bands(&self, bands: &Bands<'_, B>, x: Activation<B>) -> Result<Activation<B>> {
        let b = bands.b;
        let moments = x.moments(b).await?;
        let first = |x: B::Tensor, _, geometry| {
            let h = self.norm1.by_moments(b, x, &moments)?;
            b.conv2d(&h, &self.conv1, geometry, None)
        };
        // The shortcut has fewer channels than `x` where they differ in the decoder, and `x` is
        // freed row by row.
        let (h, added) = match &self.shortcut {
            Some(shortcut) => bands.run_both(&self.conv1, x.rows, first, shortcut).await?,
            None => (bands.run(&self.conv1, SAME, x.rows.clone(), None, first).await?, x.rows),
        };
        let moments = h.moments(b).await?;
        let second = |h: B::Tensor, added: Option<B::Tensor>, geometry| {
            let h = self.norm2.by_moments(b, h, &moments)?;
            b.conv2d(&h, &self.conv2, geometry, added.as_ref())
        };
        bands.run(&self.conv2, SAME, h.rows, Some(added), second).await
    }
}

impl<B: Backend> Norm<B> {
    /// The norm of a band, then SiLU. `moments` F32 `[1, groups, 2]` are those of the whole
    /// activation.
    fn by_moments(&self, b: &B, x: B::Tensor, moments: &B::Tensor) -> Result<B::Tensor> {
        b.normalize_groups(&x, moments, &self.weight, &self.bias, VaeConfig::NORM_EPS, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::vae::{DOWN, UP};

    /// The input rows that each output row of a convolution sees, as indices into `x`. Rows in the
    /// padding are `None`.
    fn seen(geometry: Conv2d, kernel: usize, x: &[usize]) -> Vec<Vec<Option<usize>>> {
        let zoom = usize::from(geometry.upsample);
        let height = ((x.len() << zoom) + geometry.pad[0] + geometry.pad[2] - kernel) / geometry.stride + 1;
        let row = |y: usize, tap: usize| {
            let at = (y * geometry.stride + tap).checked_sub(geometry.pad[0])?;
            x.get(at >> zoom).copied()
        };
        (0..height).map(|y| (0..kernel).map(|tap| row(y, tap)).collect()).collect()
    }

    #[test]
    fn bands_see_what_the_whole_picture_sees() {
        for (geometry, side) in [(SAME, 3), (UP, 3), (DOWN, 3), (POINTWISE, 1)] {
            for height in 2..20 {
                for limit in (0..400).step_by(7) {
                    let (kernel, residual) = ([2, side, side, 3], 4);
                    let layer = Layer { kernel, geometry, input: [height, 4], residual };
                    let whole = seen(geometry, side, &(0..height).collect::<Vec<_>>());
                    assert_eq!(whole.len(), layer.output()[0]);
                    let mut banded = Vec::new();
                    for band in layer.bands(limit) {
                        let input: Vec<usize> = band.input.collect();
                        let rows = seen(band.geometry, side, &input);
                        assert_eq!(band.output.start, banded.len());
                        banded.extend_from_slice(&rows[band.above..band.above + band.output.len()]);
                    }
                    assert_eq!(banded, whole, "{geometry:?} of {height} rows, {limit} elements");
                }
            }
        }
    }

    #[test]
    fn bands_respect_the_limit() {
        let layer = |geometry, residual| Layer { kernel: [128, 3, 3, 256], geometry, input: [1024, 1024], residual };
        let limit = 512 * 512 * 256;
        for (geometry, residual) in [(SAME, 0), (SAME, 256), (SAME, 512), (UP, 0), (DOWN, 0)] {
            let layer = layer(geometry, residual);
            let [_, width] = layer.output();
            let sizes: Vec<usize> = layer
                .bands(limit)
                .map(|band| {
                    let zoom = usize::from(geometry.upsample);
                    let made = if geometry.upsample { band.input.len() << zoom } else { band.output.len() };
                    let input = band.input.len() * 1024 * 256;
                    input.max(made * width * 128).max(band.output.len() * width * residual)
                })
                .collect();
            assert!(sizes.iter().all(|&size| size <= limit), "{geometry:?} {residual}: {sizes:?}");
            assert!(sizes[0] * 10 > limit * 9, "{geometry:?} {residual}: {sizes:?} are small");
            assert!(sizes.is_sorted_by(|a, b| a >= b), "{geometry:?} {residual}: {sizes:?}");
        }
        // A limit that no band respects leaves one row, or the two of an input row.
        for (geometry, rows) in [(SAME, 1), (UP, 2), (DOWN, 1)] {
            let bands: Vec<Band> = layer(geometry, 0).bands(1).collect();
            assert!(bands[1..].iter().all(|band| band.output.len() == rows), "{geometry:?}");
        }
    }
}
