//! The three networks, written against the backend trait. Every size comes from the model's config
//! files.

mod block;
pub mod config;
mod load;
mod rope;
pub mod text_encoder;
pub mod transformer;
pub mod vae;

use crate::error::Result;
use crate::future::expect_ready;
use crate::weights::ModelFolder;
use config::ModelConfig;
use std::path::Path;

/// A model's files, with config files read and checked but without weights: enough to check a
/// request.
#[derive(Debug, Clone)]
pub struct Model {
    folder: ModelFolder,
    config: ModelConfig,
}

impl Model {
    /// The diffusers folder at `path`.
    ///
    /// # Errors
    /// Errors of [`ModelFolder::open`] and [`ModelConfig::read`].
    pub fn open(path: &Path) -> Result<Self> {
        expect_ready(Self::new(ModelFolder::open(path)?))
    }

    /// The embedded default.
    ///
    /// # Errors
    /// Errors of [`ModelFolder::embedded`] and [`ModelConfig::read`].
    pub fn embedded() -> Result<Self> {
        expect_ready(Self::new(ModelFolder::embedded()?))
    }

    /// The model in `folder`, local or remote.
    ///
    /// # Errors
    /// Errors of [`ModelConfig::read`].
    pub async fn new(folder: ModelFolder) -> Result<Self> {
        let config = ModelConfig::read(&folder).await?;
        Ok(Self { folder, config })
    }

    /// The model's name, for display.
    pub fn name(&self) -> &str {
        self.folder.name()
    }

    /// The folder of its files.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// The content of its config files.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
}
