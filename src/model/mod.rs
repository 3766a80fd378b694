//! The three networks, written against the backend trait; every size comes from the model's own config files.

mod block;
pub mod config;
mod rope;
pub mod text_encoder;
pub mod transformer;
pub mod vae;
