//! The flags of the memory of device and host.

use std::str::FromStr;
use zimage::pipeline::plan::{Expected, Residency};
use zimage::{Offload, Result};

/// Units of sizes, in bytes.
const UNITS: [(&str, f64); 6] =
    [("GiB", (1_u64 << 30) as f64), ("MiB", (1_u64 << 20) as f64), ("GB", 1e9), ("MB", 1e6), ("G", 1e9), ("M", 1e6)];

#[derive(Debug, Clone, clap::Args)]
// Its group would have the name of that of the subcommand's arguments.
#[group(skip)]
pub(super) struct Args {
    /// The networks on the device: none puts nothing off and keeps all of them there; sequential
    /// has the text encoder there for the prompts and then the transformer, which takes less memory
    /// and loads more; stream keeps both in host memory, or leaves them in their files if that is
    /// short, and copies their blocks at each use, except those that fit within --max-vram; auto is
    /// the first of these that fits
    #[arg(long, value_name = "auto|none|sequential|stream", default_value_t, value_parser = Offload::from_str, allow_hyphen_values = true)]
    offload: Offload,

    /// The most device memory to allocate, such as 4G, 2.5GiB or 6000M [default: all that is free]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    max_vram: Option<u64>,

    /// The most host memory for streamed weights, such as 8G; with less than a network needs, its
    /// blocks are copied from the files at each use [default: all that is free, less 2 GiB]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    max_ram: Option<u64>,
}

impl Args {
    /// The residency for the requests that are expected.
    pub(super) fn residency(&self, expected: Option<Expected>) -> Residency {
        let Self { offload, max_vram, max_ram } = *self;
        Residency { offload, max_memory: max_vram, max_host_memory: max_ram, expected }
    }
}

/// A size in bytes.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 4G, 2.5GiB or 6000M".to_owned();
    let upper = text.to_ascii_uppercase();
    let unit =
        UNITS.into_iter().find_map(|(unit, bytes)| Some((upper.strip_suffix(&unit.to_ascii_uppercase())?, bytes)));
    let (number, bytes) = unit.ok_or_else(wrong)?;
    match number.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 && number * bytes < 1e15 => Ok((number * bytes) as u64),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4G"), Ok(4_000_000_000));
        assert_eq!(size("2.5GiB"), Ok(5 << 29));
        assert_eq!(size("6000 m"), Ok(6_000_000_000));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        for wrong in ["", "4", "G", "-1G", "0G", "nanG", "1e300G", "4T", "4 GB x"] {
            assert!(size(wrong).unwrap_err().contains("4G"), "{wrong}");
        }
    }
}
