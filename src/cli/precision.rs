//! The flag `--precision`, which several commands share.

use std::str::FromStr;
use zimage::Precision;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The operand type of gemms: auto is the backend's own; bf16 is for the cuda backend; fp8 is
    /// E4M3 for the transformer's large matrices, on NVIDIA GPUs of compute capability 8.9 or later
    /// (cpu has its values), and leaves --weights to the text encoder; fp8-all is E4M3 in the text
    /// encoder too
    #[arg(long, value_name = "auto|bf16|fp8|fp8-all", default_value_t, value_parser = Precision::from_str, allow_hyphen_values = true)]
    pub(super) precision: Precision,
}
