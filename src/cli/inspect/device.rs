//! The devices of this machine: each backend with its device, or the reason for its absence, and
//! the adapters that `--backend webgpu:…` chooses from.

use crate::cli;
use serde::Serialize;
use zimage::{DeviceInfo, Result};

/// The document of `--json`.
#[derive(Serialize)]
struct Document {
    devices: Vec<Device>,
    /// In the order of their numbers.
    adapters: Vec<Adapter>,
}

/// The adapters that `--backend webgpu:…` chooses from.
#[derive(Serialize)]
struct Adapter {
    /// Its name for `--backend`.
    backend: String,
    name: String,
    /// A discrete GPU, a part of the processor, or the processor itself.
    kind: &'static str,
    /// The interface that it is reached through.
    interface: &'static str,
    driver: String,
}

#[derive(Serialize)]
struct Device {
    /// Its name for `--backend`.
    backend: String,
    /// For display; `null` where the backend has none.
    device: Option<String>,
    /// The type that matrix products round their operands to.
    operands: Option<String>,
    /// The most elements of an activation; `null` where free memory is the only limit.
    largest_activation: Option<usize>,
    /// The reason why the backend has no device.
    problem: Option<String>,
}

pub(super) fn run(json: bool) -> Result<()> {
    let found = pollster::block_on(zimage::devices());
    let adapters = adapters();
    if json {
        let devices = found.into_iter().map(|(choice, info)| {
            let problem = info.as_ref().err().map(ToString::to_string);
            let info = info.ok();
            Device {
                backend: choice.to_string(),
                operands: info.as_ref().map(|info| info.operands.to_string()),
                largest_activation: info.as_ref().and_then(|info| info.largest_activation),
                device: info.map(|info| info.device),
                problem,
            }
        });
        return cli::print_json(&Document { devices: devices.collect(), adapters });
    }
    let devices = found.into_iter().map(|(choice, info)| {
        (choice.to_string(), info.map_or_else(|error| format!("none: {error}"), |info| words(&info)))
    });
    let adapters = adapters.into_iter().map(|Adapter { backend, name, kind, interface, driver }| {
        (
            backend,
            [&name, kind, interface, &driver]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(", "),
        )
    });
    let lines: Vec<(String, String)> = devices.chain(adapters).collect();
    let rows: Vec<(&str, String)> = lines.iter().map(|(name, line)| (name.as_str(), line.clone())).collect();
    cli::print(&cli::harmless(&cli::table(&rows)))
}

#[cfg(feature = "webgpu")]
fn adapters() -> Vec<Adapter> {
    let found = pollster::block_on(zimage::backend::webgpu::adapters());
    let adapter = |(number, info): (usize, zimage::backend::webgpu::AdapterInfo)| Adapter {
        backend: format!("webgpu:{number}"),
        name: info.name,
        kind: info.kind,
        interface: info.interface,
        driver: info.driver,
    };
    found.into_iter().enumerate().map(adapter).collect()
}

#[cfg(not(feature = "webgpu"))]
fn adapters() -> Vec<Adapter> {
    Vec::new()
}

/// A device in a line.
fn words(info: &DeviceInfo) -> String {
    let fp8 = if info.fp8 { " or FP8" } else { "" };
    let mut line = format!("{}; products of {}{fp8}", info.device, info.operands);
    if let Some(elements) = info.largest_activation {
        line += &format!("; activations of up to {:.0} million elements", elements as f64 / 1e6);
    }
    line
}
