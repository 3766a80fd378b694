//! The flags `--precision` and `--fp8-attention`, which several commands share.

use std::str::FromStr;
use zimage::{Error, Precision, Result};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The operand type of gemms: auto is the backend's own; bf16 is for the cuda backend; fp8 is
    /// E4M3 for the transformer's large matrices, on NVIDIA GPUs of compute capability 8.9 or later
    /// (cpu has its values), and leaves --weights to the text encoder; fp8-all is E4M3 in the text
    /// encoder too
    #[arg(long, value_name = "auto|bf16|fp8|fp8-all", default_value_t, value_parser = Precision::from_str, allow_hyphen_values = true)]
    precision: Precision,

    /// Queries, keys, values and probabilities of the transformer's attention in E4M3 too, with
    /// --precision fp8 or fp8-all, in models with heads of 128: attention is faster
    #[arg(long)]
    fp8_attention: bool,
}

impl Args {
    /// The precision that both flags ask for.
    pub(super) fn precision(&self) -> Result<Precision> {
        self.precision.with_fp8_attention(self.fp8_attention).ok_or_else(|| {
            Error::Request(format!("--fp8-attention needs --precision fp8 or fp8-all, not {}", self.precision))
        })
    }
}
