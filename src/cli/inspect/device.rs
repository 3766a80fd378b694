//! What this machine computes on: each backend with its device, or the reason why there is none.

use crate::cli;
use serde::Serialize;
use zimage::{DeviceInfo, Result};

/// The document of `--json`.
#[derive(Serialize)]
struct Document {
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    /// What `--backend` calls it.
    backend: &'static str,
    /// In words; `null` where there is none.
    device: Option<String>,
    /// The type that products round their operands to.
    operands: Option<String>,
    /// Elements of the largest activation; `null` where free memory is all that counts.
    largest_activation: Option<usize>,
    /// Why there is no device.
    problem: Option<String>,
}

pub(super) fn run(json: bool) -> Result<()> {
    let found = pollster::block_on(zimage::devices());
    if json {
        let devices = found.into_iter().map(|(choice, info)| {
            let problem = info.as_ref().err().map(ToString::to_string);
            let info = info.ok();
            Device {
                backend: choice.name(),
                operands: info.as_ref().map(|info| info.operands.to_string()),
                largest_activation: info.as_ref().and_then(|info| info.largest_activation),
                device: info.map(|info| info.device),
                problem,
            }
        });
        return cli::print_json(&Document { devices: devices.collect() });
    }
    let rows: Vec<(&str, String)> = found
        .into_iter()
        .map(|(choice, info)| (choice.name(), info.map_or_else(|error| format!("none: {error}"), |info| words(&info))))
        .collect();
    cli::print(&cli::harmless(&cli::table(&rows)))
}

/// A device in a line.
fn words(info: &DeviceInfo) -> String {
    let mut line = format!("{}; products of {}", info.device, info.operands);
    if let Some(elements) = info.largest_activation {
        line += &format!("; activations of up to {:.0} million elements", elements as f64 / 1e6);
    }
    line
}
