//! The choice of a backend and of one of a machine's devices, as users write it.

#[cfg(feature = "webgpu")]
use crate::backend::webgpu::{Adapters, Shaders};
use crate::error::{Error, Result};
use crate::named;
use std::fmt;
use std::str::FromStr;

/// The backend that computes, and its device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BackendChoice {
    /// The best one that this machine has: an NVIDIA GPU, else any other, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or a software implementation of one, through Vulkan, Metal or Direct3D 12, with these
    /// shaders.
    #[cfg(feature = "webgpu")]
    WebGpu(Shaders, Adapters),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda {
        /// Its index in CUDA's order, from 0.
        index: usize,
    },
}

impl BackendChoice {
    /// The choices of a first or best device, each with its name. Two names take a device after a
    /// colon: `webgpu` and its variants the number of an adapter or a part of its name, as
    /// [`Adapters::Named`](crate::backend::webgpu::Adapters::Named) reads it, and `cuda` the index
    /// of a GPU.
    pub const NAMES: &[(&'static str, BackendChoice)] = &[
        ("auto", BackendChoice::Auto),
        ("cpu", BackendChoice::Cpu),
        #[cfg(feature = "webgpu")]
        ("webgpu", BackendChoice::WebGpu(Shaders::Best, Adapters::Any)),
        #[cfg(feature = "webgpu")]
        ("webgpu:plain", BackendChoice::WebGpu(Shaders::Plain, Adapters::Any)),
        #[cfg(feature = "webgpu")]
        ("webgpu:default-limits", BackendChoice::WebGpu(Shaders::DefaultLimits, Adapters::Any)),
        #[cfg(feature = "webgpu")]
        ("webgpu:direct", BackendChoice::WebGpu(Shaders::Direct, Adapters::Any)),
        #[cfg(feature = "webgpu")]
        ("webgpu:half", BackendChoice::WebGpu(Shaders::Half, Adapters::Any)),
        #[cfg(feature = "webgpu")]
        ("webgpu:cooperative", BackendChoice::WebGpu(Shaders::Cooperative, Adapters::Any)),
        #[cfg(feature = "cuda")]
        ("cuda", BackendChoice::Cuda { index: 0 }),
    ];

    /// The backends in all their variants, whether or not this machine has their device: every
    /// choice in [`BackendChoice::NAMES`] except those of the best backend and of the best shaders,
    /// and the plain shaders within other limits.
    pub fn built_in() -> impl Iterator<Item = BackendChoice> {
        let repeated = |choice: &BackendChoice| match choice {
            BackendChoice::Auto => true,
            #[cfg(feature = "webgpu")]
            BackendChoice::WebGpu(shaders, _) => matches!(shaders, Shaders::Best | Shaders::DefaultLimits),
            _ => false,
        };
        Self::NAMES.iter().map(|(_, choice)| choice.clone()).filter(move |choice| !repeated(choice))
    }

    /// The choice of an adapter, from the text after `webgpu:`.
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

    /// The choice of a device, from a name with a colon.
    fn on_device(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            #[cfg(feature = "webgpu")]
            ("webgpu", adapter) => Self::on_adapter(adapter),
            #[cfg(feature = "cuda")]
            ("cuda", index) => index.parse().ok().map(|index| BackendChoice::Cuda { index }),
            _ => None,
        }
    }
}

impl FromStr for BackendChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named::value(Self::NAMES, text).or_else(|| Self::on_device(text)).ok_or_else(|| {
            let names = Self::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let adapters =
                if cfg!(feature = "webgpu") { "; webgpu:NUMBER and webgpu:NAME choose an adapter" } else { "" };
            let gpus = if cfg!(feature = "cuda") { "; cuda:NUMBER chooses a GPU" } else { "" };
            Error::Request(format!("there is no backend {text:?}; choose one of {names}{adapters}{gpus}"))
        })
    }
}

impl fmt::Display for BackendChoice {
    /// Writes what [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "webgpu")]
            BackendChoice::WebGpu(shaders, Adapters::Named(adapter)) => {
                write!(f, "{}:{adapter}", BackendChoice::WebGpu(*shaders, Adapters::Any))
            }
            #[cfg(feature = "cuda")]
            BackendChoice::Cuda { index } if *index > 0 => write!(f, "cuda:{index}"),
            choice => f.write_str(named::name(Self::NAMES, choice).unwrap_or("webgpu")),
        }
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

    #[cfg(feature = "cuda")]
    #[test]
    fn an_index_chooses_an_nvidia_gpu() {
        for (text, index, written) in [("cuda", 0, "cuda"), ("cuda:0", 0, "cuda"), ("cuda:12", 12, "cuda:12")] {
            let choice: BackendChoice = text.parse().unwrap();
            assert_eq!((&choice, choice.to_string()), (&BackendChoice::Cuda { index }, written.to_owned()));
        }
        for text in ["cuda:-1", "cuda:x", "cuda:1:2", "cuda:18446744073709551616", "cuda: 1"] {
            assert!(text.parse::<BackendChoice>().unwrap_err().to_string().contains("cuda:NUMBER"), "{text}");
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_known() {
        for text in ["", "gpu", "CPU", "webgpu:", "webgpu:half:", "webgpu: ", "cuda:", "cpu:1", "auto:0"] {
            let sentence = text.parse::<BackendChoice>().unwrap_err().to_string();
            assert!(sentence.contains(&format!("{text:?}")) && sentence.contains("auto, cpu"), "{sentence}");
        }
    }
}
