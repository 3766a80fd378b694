//! The adapters of a machine, and the choice of one by number or name.

use crate::error::{Error, Result};

/// The adapters that a backend may open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Adapters {
    /// The best adapter, even if it computes on the processor.
    #[default]
    Any,
    /// A GPU.
    Gpu,
    /// The adapter with this number in the order of [`adapters`], or the only one whose name,
    /// interface or driver has every word of this text, in any case. A number matches only a whole
    /// word of the name.
    Named(String),
}

/// The description of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name of the GPU.
    pub name: String,
    /// The kind of device: a discrete GPU, an integrated one, or the processor itself.
    pub kind: &'static str,
    /// The interface: Vulkan, Metal or Direct3D 12.
    pub interface: &'static str,
    /// The driver with its version.
    pub driver: String,
}

impl AdapterInfo {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "computes on the processor",
            wgpu::DeviceType::Other => "of no known kind",
        };
        let interface = match info.backend {
            wgpu::Backend::Vulkan => "Vulkan",
            wgpu::Backend::Metal => "Metal",
            wgpu::Backend::Dx12 => "Direct3D 12",
            wgpu::Backend::Gl => "OpenGL",
            wgpu::Backend::BrowserWebGpu => "WebGPU",
            wgpu::Backend::Noop => "nothing",
        };
        let driver = [info.driver, info.driver_info].join(" ").trim().to_owned();
        Self { name: info.name, kind, interface, driver }
    }

    /// Whether every word of `wanted`, in lower case, appears in the description.
    fn has_words(&self, wanted: &str) -> bool {
        let known = format!("{} {} {}", self.name, self.interface, self.driver).to_lowercase();
        let number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
        let in_name = |word: &str| self.name.split(|c: char| !c.is_alphanumeric()).any(|known| known == word);
        wanted.split_whitespace().all(|word| if number(word) { in_name(word) } else { known.contains(word) })
    }
}

/// The adapters of this machine. The order is stable while the drivers are. A browser chooses by
/// itself and lists none.
pub async fn adapters() -> Vec<AdapterInfo> {
    enumerate(&instance()).await.iter().map(AdapterInfo::of).collect()
}

pub(crate) fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle())
}

async fn enumerate(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    if cfg!(target_family = "wasm") {
        return Vec::new();
    }
    instance.enumerate_adapters(wgpu::Backends::all()).await
}

/// The adapter that `wanted` names, by the rules of [`Adapters::Named`].
///
/// # Errors
/// [`Error::Request`] with a list of the adapters if it names none or several.
pub(crate) async fn named(instance: &wgpu::Instance, wanted: &str) -> Result<wgpu::Adapter> {
    let mut all = enumerate(instance).await;
    let known: Vec<AdapterInfo> = all.iter().map(AdapterInfo::of).collect();
    find(wanted, &known).map(|number| all.swap_remove(number))
}

/// The number of the adapter that `wanted` names.
fn find(wanted: &str, known: &[AdapterInfo]) -> Result<usize> {
    if cfg!(target_family = "wasm") {
        return Err(Error::Request("a browser chooses the WebGPU adapter by itself: ask for webgpu alone".into()));
    }
    if let Ok(number) = wanted.parse::<usize>()
        && number < known.len()
    {
        return Ok(number);
    }
    let words = wanted.to_lowercase();
    let list = |numbers: &[usize]| {
        let line = |&number: &usize| {
            let AdapterInfo { name, kind, interface, .. } = &known[number];
            format!("{number} ({name}, {kind}, {interface})")
        };
        numbers.iter().map(line).collect::<Vec<_>>().join(", ")
    };
    let matching: Vec<usize> = (0..known.len()).filter(|&number| known[number].has_words(&words)).collect();
    match matching[..] {
        [one] => Ok(one),
        [] if known.is_empty() => Err(Error::Request(format!(
            "there is no WebGPU adapter {wanted:?}: no Vulkan, Metal or Direct3D 12 driver was found on this machine"
        ))),
        [] => {
            let all: Vec<usize> = (0..known.len()).collect();
            Err(Error::Request(format!(
                "there is no WebGPU adapter {wanted:?}; this machine has number {}",
                list(&all)
            )))
        }
        _ => Err(Error::Request(format!(
            "several WebGPU adapters are meant by {wanted:?}: {}; give a number, or more of the name",
            list(&matching)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, interface: &'static str, driver: &str) -> AdapterInfo {
        AdapterInfo { name: name.into(), kind: "discrete GPU", interface, driver: driver.into() }
    }

    fn machine() -> Vec<AdapterInfo> {
        vec![
            adapter("NVIDIA GeForce RTX 4090", "Vulkan", "NVIDIA 550.1"),
            adapter("AMD Radeon RX 7900 XTX", "Vulkan", "radv Mesa 24.0"),
            adapter("NVIDIA GeForce RTX 4090", "Direct3D 12", ""),
            adapter("llvmpipe (LLVM 15.0.6)", "Vulkan", "llvmpipe Mesa 22.3"),
        ]
    }

    #[test]
    fn adapters_are_found_by_number_or_words() {
        for (wanted, number) in [
            ("0", 0),
            ("3", 3),
            ("radeon", 1),
            ("LLVM", 3),
            ("7900", 1),
            ("4090 vulkan", 0),
            ("Direct3D", 2),
            ("RADV", 1),
        ] {
            assert_eq!(find(wanted, &machine()).unwrap(), number, "{wanted}");
        }
    }

    #[test]
    fn ambiguous_and_unknown_names_list_the_adapters() {
        let refused = |wanted, known: &[AdapterInfo]| match find(wanted, known) {
            Err(Error::Request(sentence)) => sentence,
            other => panic!("{wanted}: {other:?}"),
        };
        let several = refused("4090", &machine());
        assert!(several.contains("0 (NVIDIA GeForce RTX 4090, discrete GPU, Vulkan), 2 (") && !several.contains("AMD"));
        for wanted in ["4", "24", "409", "intel", "4090 metal", "-1", "18446744073709551616"] {
            let sentence = refused(wanted, &machine());
            assert!(sentence.contains(&format!("{wanted:?}; this machine has number 0 (")), "{sentence}");
            assert!(sentence.contains("3 (llvmpipe (LLVM 15.0.6), discrete GPU, Vulkan)"), "{sentence}");
        }
        assert!(refused("0", &[]).contains("no Vulkan, Metal or Direct3D 12 driver"));
    }
}
