//! Tensors in the host's memory and their element types, shared by weights and backends.

mod change;
mod decoded;
mod dtype;
mod format;
mod fp8;
mod host;
mod requantize;
mod scales;
mod storage;
mod weight;

pub use change::RowChange;
pub use dtype::DType;
pub(crate) use dtype::{widen, words};
pub use format::{Block, Format, Unquantizable};
pub use fp8::{Compute, FP8_BLOCK, FP8_VALUE_TOKENS, FP8_VECTOR, fp8_head_bound};
pub(crate) use fp8::{Fp8Scales, round_probabilities, round_values, round_within};
pub use host::HostTensor;
pub use scales::{Mismatch, Scaled, Scales};
pub use storage::Storage;
pub(crate) use weight::ReadAt;
pub use weight::{StreamSource, Weight};
