//! The configuration of a part that has no `config.json`: sizes from the shapes of its tensors, and
//! everything else from the published model.
//!
//! Only vectors and numbers of rows are used, because quantised files pack the columns of their
//! matrices. What the file or a neighbouring `config.json` says, `given`, takes precedence over
//! both. The result has the layout of `config.json`, and is checked as one.

mod given;
mod shapes;
#[cfg(test)]
mod tests;
mod text_encoder;
mod transformer;
mod vae;

pub use given::given_config;
pub use shapes::Shapes;
pub use text_encoder::text_encoder_config;
pub use transformer::transformer_config;
pub use vae::vae_config;
