//! The backend trait: the verbs that the pipeline is written in.
//!
//! A verb is what a GPU should do in one pass over memory, not what a tensor library would call an op. Each one is
//! defined here by a formula with shapes and types; [`cpu`] is its executable meaning; `shaders/` and `kernels/` hold
//! it for GPUs under the same name, and [`crate::conformance`] compares them.
//!
//! # Conventions
//! - Tensors are row-major. `[B, T, D]` is batch, tokens, width; pictures are channels last, `[B, H, W, C]`; latents
//!   and velocities are channels first, `[B, C, H, W]`, as every tool exchanges them.
//! - *Activations* are of one floating type that the backend chooses (F32 on `cpu` and WebGPU, BF16 on CUDA). Latents,
//!   velocities, rotations and step tables are F32 everywhere, ids, lengths and counters U32, pictures U8.
//! - Weights stay in the type they are stored in and are widened where they are used. Sums, norms and softmax are F32.
//! - A tensor is shared by cloning its handle. Verbs return new tensors; what they change in place is taken by `&mut`.
//! - Verbs may run later than they are called, in the order they were called in. Only [`Backend::download`] and
//!   [`Backend::wait`] wait for them. Uploads of weights wait for the weights, and for nothing else: where those are in
//!   memory, they are ready when they are polled for the first time.

#[cfg(any(feature = "cuda", feature = "webgpu"))]
mod cache;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "cuda", feature = "webgpu"))]
mod kept;
pub mod shapes;
#[cfg(feature = "webgpu")]
pub mod webgpu;

use crate::error::Result;
use crate::tensor::{DType, HostTensor, Weight};
use std::fmt::Debug;
use std::future::Future;

/// A tensor in a device's memory. Cloning it shares the memory.
pub trait DeviceTensor: Clone + Debug {
    /// Sizes, outermost first.
    fn shape(&self) -> &[usize];
    /// The type of the elements.
    fn dtype(&self) -> DType;
    /// The same memory under another shape of as many elements.
    fn reshaped(&self, shape: &[usize]) -> Result<Self>;
}

/// How many heads an attention has and how wide they are. A *fused projection* is `[B, T, (query + 2·key_value)·dim]`:
/// in each token all query heads, then all key heads, then all value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key heads, and as many value heads; query head `h` reads key head `h / (query / key_value)`.
    pub key_value: usize,
    /// The width of a head.
    pub dim: usize,
}

impl Heads {
    /// The width of the fused projection.
    pub fn fused_width(&self) -> usize {
        (self.query + 2 * self.key_value) * self.dim
    }
}

/// Which elements of a head a rotation turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// Neighbours: `(x0, x1), (x2, x3), …`.
    Interleaved,
    /// The two halves: `(x0, x_{d/2}), (x1, x_{d/2+1}), …`.
    Halves,
}

/// What [`Backend::qk_norm_rope`] does to a head.
#[derive(Debug)]
pub struct QkNormRope<'a, T> {
    /// Weight `[dim]` of the RMSNorm over a query head.
    pub q_norm: &'a T,
    /// Weight `[dim]` of the RMSNorm over a key head.
    pub k_norm: &'a T,
    /// Added to the mean square of a head.
    pub eps: f32,
    /// F32 `[R, T, dim/2, 2]`, `R` 1 or `B`: `(cos, sin)` of each pair, `(a, b) → (a·cos − b·sin, a·sin + b·cos)`.
    pub rotation: &'a T,
    /// Which elements are a pair.
    pub pairs: RopePairs,
}

/// What a query may look at.
#[derive(Debug)]
pub struct Mask<'a, T> {
    /// A query sees the keys at its own position and before.
    pub causal: bool,
    /// `U32 [B]`: item `b` has this many keys (1 to `T`), all others are hidden. Every query row is computed, also
    /// the rows past the length.
    pub lengths: Option<&'a T>,
}

/// A row of a modulation table `[R, n, D]`: `table[r, row]`, where `R` is 1 (shared by the batch) or the batch size.
#[derive(Debug)]
pub struct Modulation<'a, T> {
    /// The table, an activation.
    pub table: &'a T,
    /// Which of the `n` rows.
    pub row: usize,
}

impl<T> Clone for Modulation<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Modulation<'_, T> {}

/// What is added to the residual stream: `tanh(gate) ⊙ RMS(y)·norm`, where an absent norm leaves `y` and an absent
/// gate is 1.
#[derive(Debug)]
pub struct Branch<'a, T> {
    /// The branch's output, `[B, T, D]`.
    pub y: &'a T,
    /// Weight `[D]` of the norm on the branch's output.
    pub norm: Option<&'a T>,
    /// The gate before its `tanh`.
    pub gate: Option<Modulation<'a, T>>,
    /// Added to the mean square inside the norm.
    pub eps: f32,
}

/// An RMSNorm: `x / √(mean(x²) + eps) · weight · (1 + scale)`, an absent scale being 0; the mean is over the last axis.
#[derive(Debug)]
pub struct RmsNorm<'a, T> {
    /// Weight `[D]`.
    pub weight: &'a T,
    /// The modulation's scale.
    pub scale: Option<Modulation<'a, T>>,
    /// Added to the mean square.
    pub eps: f32,
}

/// The geometry of a [`Backend::conv2d`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conv2d {
    /// Pixels between two outputs, at least 1.
    pub stride: usize,
    /// Zeros around the picture: top, left, bottom, right.
    pub pad: [usize; 4],
    /// Reads the picture as if it were twice as high and wide, each pixel standing for four (nearest), before padding.
    pub upsample: bool,
}

/// A GPU, a CPU, anything that computes the verbs.
///
/// Errors: every verb returns [`crate::Error::Shape`] for tensors whose sizes or types do not fit (by the rules in
/// [`shapes`]) and where a tensor that it changes in place is also one that it reads, [`crate::Error::OutOfMemory`] for
/// tensors that there is no room for, after which the backend goes on, and [`crate::Error::Device`] for whatever else
/// the device refuses. Numbers inside tensors that name what is not there (ids, captions, a step past its table)
/// are an error where the host can see them, which for a recording is when it is replayed, and undefined elsewhere.
pub trait Backend: Sized + Debug {
    /// Device memory with a shape and an element type.
    type Tensor: DeviceTensor;
    /// The matrix `[N, K]` of a linear layer, with its bias `[N]` if it has one.
    type Linear: Debug;
    /// The two matrices `[F, K]` that [`Backend::swiglu`] multiplies by.
    type SwiGlu: Debug;
    /// The kernel `[O, kh, kw, I]` of a convolution, with its bias `[O]` if it has one.
    type Conv2d: Debug;
    /// A run of verbs kept for replay without host work (a CUDA graph; prepared wgpu dispatches).
    type Recording: Debug;
    /// A point in the order of the verbs that the host can wait for.
    type Event: Debug;

    /// How many recordings the host may have launched that have not finished: enough that the device never waits for
    /// the host, few enough that cancelling is quick. 1 where verbs run as they are called.
    const IN_FLIGHT: usize;

    /// The name a user knows this backend by: `cpu`, `webgpu`, `cuda`.
    fn name(&self) -> &'static str;
    /// The device in words.
    fn device(&self) -> String;

    /// The type that products (`linear`, `swiglu`, `attention`, `conv2d` and the verbs that hold one) round their
    /// operands to before they multiply them, F32 where they do not. Their sums are F32 whatever it is. What a result
    /// may be off by follows from it; [`crate::conformance`] reads it.
    fn operands(&self) -> DType {
        DType::F32
    }

    // ---- memory ------------------------------------------------------------------------------------------------

    /// How many elements an activation may have at most, however much memory is free; `usize::MAX` where free memory is
    /// all that counts. Callers use it to choose sizes that fit.
    fn largest_activation(&self) -> usize {
        usize::MAX
    }

    /// Bytes of the device's memory that nobody uses; `None` where that is not known, or where memory is the host's. Callers
    /// use it to choose what is there at the same time.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    /// The type that the matrices, kernels and tables of a model have on the device when they are stored as `stored`.
    fn weights(&self, stored: DType) -> DType {
        stored
    }

    /// Ends a stage whose sizes the next one does not share: memory that is kept for reuse and that no tensor uses is let go
    /// of, or gives way to the next stage's wherever otherwise more would be held than ever before.
    fn trim(&self) {}

    /// The most bytes that the backend has held on the device at once since it was opened: tensors, what is kept for reuse,
    /// and recordings, but not what the driver takes for itself. `None` where it does not know.
    fn peak_memory(&self) -> Option<u64> {
        None
    }

    /// Copies a tensor to the device, as it is stored or widened exactly. One in the type of the backend's activations can
    /// be used as an activation. Takes effect at once, as all uploads do, also inside [`Backend::record`].
    fn upload(&self, tensor: &HostTensor) -> Result<Self::Tensor>;

    /// Copies a table `[V, D]` of a floating type to the device as it is stored, for [`Backend::gather_rows`].
    fn upload_table(&self, table: &Weight<'_>) -> impl Future<Output = Result<Self::Tensor>>;

    /// Copies a tensor back, once everything called before has run; not inside [`Backend::record`]. F32, U32 and U8
    /// come back as they are; activations come back in the backend's own type.
    fn download(&self, tensor: &Self::Tensor) -> impl Future<Output = Result<HostTensor>>;

    /// Prepares the matrices `parts`, each `[Nᵢ, K]`, as one matrix `[ΣNᵢ, K]` for [`Backend::linear`]; `biases` is
    /// empty or holds one `[Nᵢ]` a part.
    fn upload_linear(&self, parts: &[Weight<'_>], biases: &[HostTensor]) -> impl Future<Output = Result<Self::Linear>>;

    /// Prepares `gate` and `up`, each `[F, K]`, for [`Backend::swiglu`].
    fn upload_swiglu(&self, gate: &Weight<'_>, up: &Weight<'_>) -> impl Future<Output = Result<Self::SwiGlu>>;

    /// Prepares a kernel stored as `[O, I, kh, kw]`, and a bias `[O]`, for [`Backend::conv2d`].
    fn upload_conv2d(&self, kernel: &HostTensor, bias: Option<&HostTensor>) -> Result<Self::Conv2d>;

    // ---- order -------------------------------------------------------------------------------------------------

    /// Keeps the verbs that `steps` calls instead of running them. Tensors made inside belong to the recording and can
    /// be downloaded after a replay while both are kept; tensors from outside are read and written where they are when it
    /// is replayed. Recordings do not nest.
    fn record(&self, steps: impl FnOnce(&Self) -> Result<()>) -> Result<Self::Recording>;

    /// Runs a recording once more; not inside [`Backend::record`].
    fn replay(&self, recording: &Self::Recording) -> Result<()>;

    /// Marks the point after everything called so far.
    fn event(&self) -> Result<Self::Event>;

    /// Waits until everything before `event` has run.
    fn wait(&self, event: Self::Event) -> impl Future<Output = Result<()>>;

    // ---- tokens ------------------------------------------------------------------------------------------------

    /// `out[i] = table[ids[i]]`: an embedding lookup. `table` `[V, D]` as stored, `ids` U32 `[…]`; returns `[…, D]`.
    fn gather_rows(&self, table: &Self::Tensor, ids: &Self::Tensor) -> Result<Self::Tensor>;

    /// `x·Wᵀ + b`. `x` `[…, K]`, `W` `[N, K]`; returns `[…, N]`.
    fn linear(&self, x: &Self::Tensor, w: &Self::Linear) -> Result<Self::Tensor>;

    /// `SiLU(x·Gᵀ) ⊙ (x·Uᵀ)` with `SiLU(a) = a / (1 + e⁻ᵃ)`. `x` `[…, K]`, `G` and `U` `[F, K]`; returns `[…, F]`.
    fn swiglu(&self, x: &Self::Tensor, w: &Self::SwiGlu) -> Result<Self::Tensor>;

    /// The [`RmsNorm`] of every token. `x` `[B, T, D]`; returns the same shape.
    fn rms_norm(&self, x: &Self::Tensor, norm: RmsNorm<'_, Self::Tensor>) -> Result<Self::Tensor>;

    /// `x += branch`, in place. `x` `[B, T, D]`.
    fn residual(&self, x: &mut Self::Tensor, branch: Branch<'_, Self::Tensor>) -> Result<()>;

    /// `x += branch`, in place, and at once the [`RmsNorm`] of the new `x`, which is returned for the next linear.
    fn residual_norm(
        &self,
        x: &mut Self::Tensor,
        branch: Branch<'_, Self::Tensor>,
        norm: RmsNorm<'_, Self::Tensor>,
    ) -> Result<Self::Tensor>;

    /// Prepares a fused projection `[B, T, fused width]` for [`Backend::attention`], in place: every query and key head
    /// is normed and then rotated as [`QkNormRope`] says; values stay.
    fn qk_norm_rope(&self, qkv: &mut Self::Tensor, heads: Heads, how: QkNormRope<'_, Self::Tensor>) -> Result<()>;

    /// The fused projection of `x` `[B, T, K]`, ready for [`Backend::attention`]: [`Backend::qk_norm_rope`] of
    /// [`Backend::linear`]. A backend may do both at once, and then rounds once. `W` `[fused width, K]`; returns
    /// `[B, T, fused width]`.
    fn project_qkv(
        &self,
        x: &Self::Tensor,
        w: &Self::Linear,
        heads: Heads,
        how: QkNormRope<'_, Self::Tensor>,
    ) -> Result<Self::Tensor> {
        let mut qkv = self.linear(x, w)?;
        self.qk_norm_rope(&mut qkv, heads, how)?;
        Ok(qkv)
    }

    /// `softmax(q·kᵀ/√dim + mask)·v` for every head of a fused projection; returns `[B, T, query·dim]`, heads side by
    /// side.
    fn attention(&self, qkv: &Self::Tensor, heads: Heads, mask: Mask<'_, Self::Tensor>) -> Result<Self::Tensor>;

    // ---- the diffusion transformer -----------------------------------------------------------------------------

    /// `W₂·SiLU(W₁·e + b₁) + b₂` with `e = [cos(u·f), sin(u·f)]`, `fᵢ = 10000^(−i/h)`, `i < h`, where `2h` is the width
    /// of `W₁`'s rows and `u` is read from the device-side table `times` F32 `[N, R]` at row `step` (U32 `[1]`).
    /// Returns `[R, A]`.
    fn timestep_embedding(
        &self,
        times: &Self::Tensor,
        step: &Self::Tensor,
        w1: &Self::Linear,
        w2: &Self::Linear,
    ) -> Result<Self::Tensor>;

    /// The adaLN linears of every block at once: `W·a + b` with `a = t`, or `SiLU(t)` when `silu`. `t` `[R, A]`, `W`
    /// `[n·width, A]`; returns the modulation table `[R, n, width]`.
    fn modulation(&self, t: &Self::Tensor, w: &Self::Linear, silu: bool, width: usize) -> Result<Self::Tensor>;

    /// Latents to tokens: `out[b, y·(W/p) + x] = Wₑ·patch + bₑ`, where a patch lists its `p·p·C` values by (row, column,
    /// channel); rows from the picture's end up to `tokens` are `pad` `[D]`. The batch comes `copies` times, one after
    /// the other. `latents` F32 `[B, C, H, W]`; returns `[copies·B, tokens, D]`.
    fn embed_patches(
        &self,
        latents: &Self::Tensor,
        patch: usize,
        w: &Self::Linear,
        pad: &Self::Tensor,
        tokens: usize,
        copies: usize,
    ) -> Result<Self::Tensor>;

    /// `x[b, t] = token` for every `t ≥ lengths[b]`, in place. `x` `[B, T, D]`, `token` `[D]`, `lengths` U32 `[B]`.
    fn pad_rows(&self, x: &mut Self::Tensor, token: &Self::Tensor, lengths: &Self::Tensor) -> Result<()>;

    /// One sequence an item: `out[n] = [image[n mod B], caption[captions[n]]]`. `image` `[B, S, D]`, `caption`
    /// `[P, T, D]`, `captions` U32 `[N]`, `N` a multiple of `B`; returns `[N, S + T, D]`.
    fn join_sequence(
        &self,
        image: &Self::Tensor,
        caption: &Self::Tensor,
        captions: &Self::Tensor,
    ) -> Result<Self::Tensor>;

    /// Tokens to velocity: `W·(LN(x)·(1 + scale)) + b` for the first tokens, put back as patches (the inverse of
    /// [`Backend::embed_patches`]). LN is LayerNorm over D without weights, eps added to the variance. `x` `[B, T, D]`,
    /// `W` `[p·p·C, D]`; returns F32 `[B, C, H, W]` with `size` = `[H, W]`.
    fn final_layer(
        &self,
        x: &Self::Tensor,
        scale: Modulation<'_, Self::Tensor>,
        eps: f32,
        w: &Self::Linear,
        patch: usize,
        size: [usize; 2],
    ) -> Result<Self::Tensor>;

    /// Guidance, its norm cap and the Euler step in one, in F32. Row `step` of the device-side `table` F32 `[N, 3]` is
    /// `(delta, g, c)`. For every item `b`, with `p = prediction[b]` and, where `prediction` holds 2B items,
    /// `q = prediction[B + b]`:
    ///
    /// `v = p + g·(p − q)`; if `c > 0` and `‖v‖ > c·‖p‖` then `v ← v·(c·‖p‖/‖v‖)`; `latents[b] += delta·v`.
    ///
    /// Where `prediction` holds B items, `v = p` and nothing is capped. Then `step += 1`, on the device. `latents` F32
    /// `[B, C, H, W]`, in place; `step` U32 `[1]`, in place.
    fn guide_and_step(
        &self,
        latents: &mut Self::Tensor,
        prediction: &Self::Tensor,
        table: &Self::Tensor,
        step: &mut Self::Tensor,
    ) -> Result<()>;

    // ---- the autoencoder ---------------------------------------------------------------------------------------

    /// A convolution (correlation) with bias, and `residual` added to it where given. `x` `[B, H, W, I]`; returns
    /// `[B, H', W', O]`, where `H' = (s·H + pad − kh)/stride + 1` and `s` is 2 with `upsample`, else 1. `residual` has
    /// the output's shape.
    fn conv2d(
        &self,
        x: &Self::Tensor,
        w: &Self::Conv2d,
        geometry: Conv2d,
        residual: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;

    /// GroupNorm, `(x − mean)/√(var + eps)·weight + bias` with mean and (biased) variance over a group's channels and
    /// all pixels, then SiLU when `silu`. `x` `[B, H, W, C]`, `weight` and `bias` `[C]`; returns the same shape.
    fn group_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: &Self::Tensor,
        groups: usize,
        eps: f32,
        silu: bool,
    ) -> Result<Self::Tensor>;

    /// `out[b, y, x, c] = latents[b, c, y, x] / scale + shift`: what the decoder reads. `latents` F32 `[B, C, H, W]`;
    /// returns an activation `[B, H, W, C]`.
    fn unscale_latents(&self, latents: &Self::Tensor, scale: f32, shift: f32) -> Result<Self::Tensor>;

    /// `out[b, c, y, x] = (x[b, y, x, c] − shift)·scale` for the first `channels` of the encoder's output (the mean of
    /// its Gaussian). `x` `[B, H, W, ≥ channels]`; returns F32 `[B, channels, H, W]`.
    fn scale_latents(&self, x: &Self::Tensor, channels: usize, scale: f32, shift: f32) -> Result<Self::Tensor>;

    /// `pixel/127.5 − 1`. `pixels` U8 `[B, H, W, C]`; returns an activation of that shape.
    fn normalize_rgb8(&self, pixels: &Self::Tensor) -> Result<Self::Tensor>;

    /// `round(255·clamp(x/2 + 1/2, 0, 1))`, halves to even. `x` `[B, H, W, C]`; returns U8 of that shape. An
    /// infinite value or NaN is [`crate::Error::NonFinitePicture`]: here where the host can see it, else from the
    /// [`Backend::download`] of the next U8 tensor. So it never passes as white or black.
    fn to_rgb8(&self, x: &Self::Tensor) -> Result<Self::Tensor>;
}

/// What makes a picture fit into a device's memory.
#[cfg(any(feature = "cuda", feature = "webgpu"))]
const RELIEF: &str = if cfg!(target_family = "wasm") {
    "a smaller picture or batch may fit"
} else {
    "--offload sequential, a smaller --width, --height or --batch, or --vae-tile may make it fit"
};

/// The type in which a backend keeps activations, which is also the type to upload them in.
pub(crate) fn activation_type<B: Backend>(b: &B) -> Result<DType> {
    Ok(b.normalize_rgb8(&b.upload(&HostTensor::from_u8(&[1, 1, 1, 3], &[0; 3]))?)?.dtype())
}

/// A finite value as [`Backend::to_rgb8`] rounds it: `round(255·clamp(x/2 + 1/2, 0, 1))`, halves to
/// even.
pub(crate) fn level(x: f32) -> u8 {
    ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}
