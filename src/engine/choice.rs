//! The choice of a backend and of one of a machine's devices, as users write it.

#[cfg(feature = "webgpu")]
use crate::backend::webgpu::{Adapters, Shaders};
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The backend that computes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BackendChoice {
    /// The best one that this machine has: an NVIDIA GPU, else any other, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// Any GPU, or a processor in its place, through Vulkan, Metal or Direct3D 12, with these shaders.
    #[cfg(feature = "webgpu")]
    WebGpu(Shaders, Adapters),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda,
}

impl BackendChoice {
    /// The choices that leave the device open, each with its name. A name of `webgpu` may be followed by a colon and the
    /// number of an adapter or a part of its name, as [`Adapters::Named`](crate::backend::webgpu::Adapters::Named) reads it.
    #[cfg(feature = "webgpu")]
    pub const NAMES: &[(&'static str, BackendChoice)] = &[
        ("auto", BackendChoice::Auto),
        ("cpu", BackendChoice::Cpu),
        ("webgpu", BackendChoice::WebGpu(Shaders::Best, Adapters::Any)),
        ("webgpu:plain", BackendChoice::WebGpu(Shaders::Plain, Adapters::Any)),
        ("webgpu:direct", BackendChoice::WebGpu(Shaders::Direct, Adapters::Any)),
        ("webgpu:half", BackendChoice::WebGpu(Shaders::Half, Adapters::Any)),
        ("webgpu:cooperative", BackendChoice::WebGpu(Shaders::Cooperative, Adapters::Any)),
        #[cfg(feature = "cuda")]
        ("cuda", BackendChoice::Cuda),
    ];
    /// The choices, each with its name.
    #[cfg(not(feature = "webgpu"))]
    pub const NAMES: &[(&'static str, BackendChoice)] = &[
        ("auto", BackendChoice::Auto),
        ("cpu", BackendChoice::Cpu),
        #[cfg(feature = "cuda")]
        ("cuda", BackendChoice::Cuda),
    ];

    /// The backends themselves in all their variants, whether or not this machine has their device: every choice in
    /// [`BackendChoice::NAMES`] that leaves no variant open.
    pub fn built_in() -> impl Iterator<Item = BackendChoice> {
        let open = |choice: &BackendChoice| match choice {
            BackendChoice::Auto => true,
            BackendChoice::Cpu => false,
            #[cfg(feature = "webgpu")]
            BackendChoice::WebGpu(shaders, _) => *shaders == Shaders::Best,
            #[cfg(feature = "cuda")]
            BackendChoice::Cuda => false,
        };
        Self::NAMES.iter().map(|(_, choice)| choice.clone()).filter(move |choice| !open(choice))
    }

    /// The choice of an adapter, from what follows `webgpu:`.
    #[cfg(feature = "webgpu")]
    fn on_adapter(text: &str) -> Option<Self> {
        let of_shaders = Self::NAMES.iter().find_map(|(name, choice)| match choice {
            BackendChoice::WebGpu(shaders, _) => {
                let word = name.strip_prefix("webgpu:")?;
                Some((*shaders, text.strip_prefix(word)?.strip_prefix(':')?))
            }
            _ => None,
        });
        let (shaders, adapter) = of_shaders.unwrap_or((Shaders::Best, text));
        let adapter = adapter.trim();
        (!adapter.is_empty()).then(|| BackendChoice::WebGpu(shaders, Adapters::Named(adapter.to_owned())))
    }

    /// No backend has its device chosen in a program without `webgpu`.
    #[cfg(not(feature = "webgpu"))]
    fn on_adapter(_: &str) -> Option<Self> {
        None
    }
}

impl FromStr for BackendChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, choice)| choice.clone());
        known.or_else(|| Self::on_adapter(text.strip_prefix("webgpu:")?)).ok_or_else(|| {
            let names = Self::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let adapters =
                if cfg!(feature = "webgpu") { "; webgpu:NUMBER and webgpu:NAME choose an adapter" } else { "" };
            Error::Request(format!("there is no backend {text:?}; choose one of {names}{adapters}"))
        })
    }
}

impl fmt::Display for BackendChoice {
    /// Writes what [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "webgpu")]
        if let BackendChoice::WebGpu(shaders, Adapters::Named(adapter)) = self {
            return write!(f, "{}:{adapter}", BackendChoice::WebGpu(*shaders, Adapters::Any));
        }
        f.write_str(Self::NAMES.iter().find(|(_, choice)| choice == self).map_or("webgpu", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for (name, choice) in BackendChoice::NAMES {
            assert_eq!(
                (name.parse::<BackendChoice>().unwrap(), choice.to_string()),
                (choice.clone(), (*name).to_owned())
            );
        }
    }

    #[cfg(feature = "webgpu")]
    #[test]
    fn an_adapter_follows_the_shaders() {
        let named = |shaders, adapter: &str| BackendChoice::WebGpu(shaders, Adapters::Named(adapter.into()));
        for (text, choice) in [
            ("webgpu:1", named(Shaders::Best, "1")),
            ("webgpu:RTX 4090", named(Shaders::Best, "RTX 4090")),
            ("webgpu:half:1", named(Shaders::Half, "1")),
            ("webgpu:direct:llvm", named(Shaders::Direct, "llvm")),
            ("webgpu:halfling", named(Shaders::Best, "halfling")),
            ("webgpu:a:b", named(Shaders::Best, "a:b")),
        ] {
            assert_eq!((text.parse::<BackendChoice>().unwrap(), choice.to_string()), (choice, text.to_owned()));
        }
    }

    #[test]
    fn other_names_are_refused_with_those_there_are() {
        for text in ["", "gpu", "CPU", "webgpu:", "webgpu:half:", "webgpu: ", "cuda:", "cpu:1", "auto:0"] {
            let sentence = text.parse::<BackendChoice>().unwrap_err().to_string();
            assert!(sentence.contains(&format!("{text:?}")) && sentence.contains("auto, cpu"), "{sentence}");
        }
    }
}
