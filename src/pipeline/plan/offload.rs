//! The modes of offloading.

use crate::error::{Error, Result};
use crate::named;
use std::fmt;
use std::str::FromStr;

/// The networks that are on the device at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Offload {
    /// The first of the others that fits the device's memory.
    #[default]
    Auto,
    /// All of them, always.
    None,
    /// The text encoder until the prompts are encoded, then the transformer. A run loads the
    /// missing one, and the device needs memory for the larger of the two.
    Sequential,
    /// Both in host memory, or in mapped files if that has too little room. Their blocks are copied
    /// to the device at each use, except as many of the transformer's as a limit of the device's
    /// memory allows. A backend without streaming, such as `cpu` or `webgpu` in a browser, does
    /// [`Offload::Sequential`].
    Stream,
}

impl Offload {
    const NAMES: [(&str, Offload); 4] = [
        ("auto", Offload::Auto),
        ("none", Offload::None),
        ("sequential", Offload::Sequential),
        ("stream", Offload::Stream),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        named::name(&Self::NAMES, &self).unwrap_or_default()
    }
}

impl FromStr for Offload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown =
            || Error::Request(format!("there is no way {text:?} to offload: use {}", named::list(&Self::NAMES)));
        named::value(&Self::NAMES, text).ok_or_else(unknown)
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
