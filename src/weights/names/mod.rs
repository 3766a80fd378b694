//! The names of tensors: one map for each spelling, from a stored name to the name that the model's
//! code asks for, which is that of diffusers and transformers.
//!
//! | part | spellings |
//! | --- | --- |
//! | transformer | diffusers; ComfyUI and the original code, which fuse `qkv` |
//! | text encoder | transformers, with and without `model.`; llama.cpp (`blk.0.attn_q`) |
//! | VAE | diffusers, also before 0.18; the latent-diffusion code (`decoder.up.3.block.0`) |
//!
//! Each may begin with a prefix that tells the parts of an all-in-one file apart. [`Spelling::of`]
//! finds it, and [`Spelling::targets`] maps a name. Sources: ComfyUI's `z_image_to_diffusers`,
//! diffusers' `single_file_utils.py`, ComfyUI-GGUF's `loader.py`.

mod library;
mod spelling;
mod target;
#[cfg(test)]
mod tests;
mod text_encoder;
mod transformer;
mod vae;

pub(super) use library::{HEAD, Library, TABLE};
pub use spelling::{Part, Spelling};
pub use target::{Rows, Target};
