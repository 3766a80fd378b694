//! The plan of a run: the networks that are on the device together, the blocks that are streamed,
//! and the tiles of the decoder.
//!
//! [`Plan::new`] is a pure function of [`Needs`], the bytes of a model on a backend, and of
//! [`Limits`]. It takes the first of these that fits: all networks on the device; the text encoder
//! and the transformer in turn; both in host memory or in their files, with as many of the
//! transformer's blocks on the device as fit. Each is tried with the decoder whole, then with tiles
//! that wait on the device. If none fits, each is tried with tiles that wait in the host's memory,
//! which are slow.

mod activations;
mod needs;
mod obstacle;
mod offload;
#[cfg(test)]
mod tests;

use crate::model::vae::tiling::{Home, Tile};
use crate::model::{NetworkBytes, Streaming};
use crate::tensor::StreamSource;
pub(super) use activations::{Sizes, decoding};
pub use needs::{Expected, Residency};
pub use obstacle::Obstacle;
pub use offload::Offload;
use std::fmt;

/// The bytes that a model and a request need on a backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// The text encoder's tensors.
    pub text_encoder: NetworkBytes,
    /// The transformer's tensors.
    pub transformer: NetworkBytes,
    /// The autoencoder's tensors.
    pub vae: u64,
    /// Activations of the text encoder.
    pub text: u64,
    /// Activations of embedding and refining captions.
    pub captions: u64,
    /// Activations of a denoising step.
    pub step: u64,
    /// Activations of the decoder for each kind of tiles that may be used, the fastest first;
    /// `None` is the whole picture.
    pub decoder: Vec<(Option<Tile>, u64)>,
    /// Tables, latents and other small tensors.
    pub small: u64,
    /// The largest activation that an op reads or writes whole, with the smallest tiles.
    pub largest_activation: u64,
    /// Device bytes through which the text encoder and the transformer are streamed; `None` on a
    /// backend that streams nothing.
    pub stream_buffers: Option<[u64; 2]>,
}

/// The limits of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Free bytes of the device; `None` if unknown or if it uses host memory.
    pub device: Option<u64>,
    /// Free bytes of the host; `None` if unknown.
    pub host: Option<u64>,
    /// The mode that the user wants.
    pub offload: Offload,
    /// True if the user limits the device's memory: [`Offload::Stream`] then keeps as many blocks
    /// on the device as fit, else none.
    pub is_limited: bool,
}

/// The networks on the device, and the memory that they take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// True if the text encoder and the transformer are loaded in turn.
    pub in_turn: bool,
    /// The streamed blocks of the text encoder.
    pub text_encoder: Streaming,
    /// The streamed blocks of the transformer.
    pub transformer: Streaming,
    /// The decoder's tiles; `None` for whole pictures.
    pub vae_tile: Option<Tile>,
    /// The predicted peak of device memory, in bytes.
    pub peak: u64,
    /// Bytes on the device beside activations while it denoises.
    pub weights: u64,
    /// Bytes of the transformer that are copied to the device in each step.
    pub streamed: u64,
    /// Bytes of the text encoder that are copied to the device when prompts are encoded.
    pub streamed_text: u64,
    /// Bytes of the device through which they are copied.
    pub buffer: u64,
    /// Bytes of activations of the captions.
    pub captions: u64,
    /// Blocks of the transformer that run in a step.
    pub blocks: usize,
    /// The free bytes that the plan was made for.
    pub limit: Option<u64>,
}

impl Plan {
    /// The plan for a model within limits. If nothing fits, the one with the least memory.
    pub fn new(needs: &Needs, limits: Limits) -> Self {
        let plans = needs.plans(limits);
        let limit = limits.device.unwrap_or(u64::MAX);
        let least = plans.iter().position(|plan| plan.peak <= limit);
        let chosen = least.unwrap_or(plans.len() - 1);
        plans.into_iter().nth(chosen).expect("the index is in range")
    }

    /// The mode, as on the command line.
    pub fn offload(&self) -> Offload {
        match (self.transformer, self.in_turn) {
            (Streaming::AllBut { .. }, _) => Offload::Stream,
            (Streaming::None, true) => Offload::Sequential,
            (Streaming::None, false) => Offload::None,
        }
    }

    /// Bytes that are left for the decoder's activations; `None` without a limit.
    pub fn decoder_room(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.weights + self.captions))
    }
}

impl Needs {
    /// The plans that the limits allow, the best first and the smallest last.
    fn plans(&self, limits: Limits) -> Vec<Plan> {
        let Limits { offload, host, is_limited, device } = limits;
        let streams = self.stream_buffers.is_some();
        let blocks = self.transformer.blocks.len();
        let resident = (false, Streaming::None);
        let in_turn = (true, Streaming::None);
        let streamed = |resident| self.streamed(resident, host);
        let most = if is_limited || offload != Offload::Stream { blocks.saturating_sub(1) } else { 0 };
        let streamed = (0..=most).rev().map(streamed).filter(|_| streams);
        let modes: Vec<Vec<(bool, Streaming)>> = match offload {
            Offload::None => vec![vec![resident]],
            Offload::Sequential => vec![vec![in_turn]],
            Offload::Stream if streams => vec![streamed.collect()],
            Offload::Stream => vec![vec![in_turn]],
            Offload::Auto => vec![vec![resident], vec![in_turn], streamed.collect()],
        };
        // A picture of 1024×1024 in tiles that wait in the host's memory took 4 to 7 s on an H200,
        // whose streamed steps of BF16 take 0.1 s more.
        let is_slow = |tile: Option<Tile>| tile.is_some_and(|tile| tile.home == Home::Host);
        let (slow, fast): (Vec<_>, Vec<_>) = self.decoder.iter().partition(|(tile, _)| is_slow(*tile));
        let mut plans = Vec::new();
        for decoders in [fast, slow] {
            for mode in &modes {
                for &(tile, decoder) in &decoders {
                    let plan = |&(in_turn, streaming)| self.plan(in_turn, streaming, tile, decoder, device);
                    plans.extend(mode.iter().map(plan));
                }
            }
        }
        plans
    }

    /// The streaming of a transformer with so many resident blocks, and of the whole text encoder,
    /// within the free bytes of the host; true if they have to be there in turn.
    fn streamed(&self, resident: usize, host: Option<u64>) -> (bool, Streaming) {
        let of_host = |source| {
            let of_text = self.text_encoder.of_host(Streaming::AllBut { resident: 0, source });
            [of_text, self.transformer.of_host(Streaming::AllBut { resident, source })]
        };
        let both = |source| of_host(source).iter().sum::<u64>();
        let larger = |source| of_host(source).into_iter().max().unwrap_or(0);
        let fits = |bytes| host.is_none_or(|host| bytes <= host);
        let (memory, files) = (StreamSource::Memory, StreamSource::Files);
        let (in_turn, source) = match (fits(both(memory)), fits(larger(memory)), fits(both(files))) {
            (true, ..) => (false, memory),
            (false, true, _) => (true, memory),
            (false, false, true) => (false, files),
            (false, false, false) => (true, if larger(files) < larger(memory) { files } else { memory }),
        };
        (in_turn, Streaming::AllBut { resident, source })
    }

    fn plan(
        &self,
        in_turn: bool,
        transformer: Streaming,
        vae_tile: Option<Tile>,
        decoder: u64,
        limit: Option<u64>,
    ) -> Plan {
        let text_encoder = match transformer.source() {
            Some(source) => Streaming::AllBut { resident: 0, source },
            None => Streaming::None,
        };
        let [text_buffer, buffer] = match self.stream_buffers {
            Some(buffers) if transformer.source().is_some() => buffers,
            _ => [0; 2],
        };
        let text_weights = self.text_encoder.resident(text_encoder);
        let step_weights = self.transformer.resident(transformer) + buffer;
        // The loop and the decoder are recorded, and allocated, while captions are computed.
        let recorded = self.step.max(decoder);
        let (weights, peak) = match in_turn {
            true => {
                let drawing = step_weights + self.captions + recorded;
                (step_weights, (text_weights + text_buffer + self.text).max(drawing))
            }
            false => {
                let weights = text_weights + step_weights.max(step_weights - buffer + text_buffer);
                (weights, weights + self.text.max(self.captions) + recorded)
            }
        };
        Plan {
            in_turn,
            text_encoder,
            transformer,
            vae_tile,
            peak: self.vae + self.small + peak,
            weights: self.vae + self.small + weights,
            streamed: self.transformer.streamed(transformer),
            streamed_text: self.text_encoder.streamed(text_encoder),
            buffer: buffer.max(text_buffer),
            captions: if in_turn { self.captions } else { self.text.max(self.captions) },
            blocks: self.transformer.blocks.len(),
            limit,
        }
    }
}

impl fmt::Display for Plan {
    /// One line: `all networks on the device, the picture decoded whole: 20.4 GB at the peak`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        match (self.transformer, self.in_turn) {
            (Streaming::None, false) => write!(f, "all networks on the device")?,
            (Streaming::None, true) => write!(f, "text encoder and transformer on the device in turn")?,
            (Streaming::AllBut { resident, source }, in_turn) => {
                let (blocks, bytes) = (self.blocks, gb(self.streamed));
                let turn = if in_turn { ", loaded in turn," } else { "" };
                let from = if source == StreamSource::Files { " from the files" } else { "" };
                write!(
                    f,
                    "text encoder{turn} and {} of {blocks} blocks of the transformer streamed{from}, \
                     {bytes:.1} GB a step",
                    blocks - resident.min(blocks)
                )?;
            }
        }
        match self.vae_tile {
            None => write!(f, "; the picture decoded whole")?,
            Some(tile) => write!(f, "; the picture decoded in {tile}")?,
        }
        write!(f, "; {:.2} GB of device memory at the peak", gb(self.peak))
    }
}
