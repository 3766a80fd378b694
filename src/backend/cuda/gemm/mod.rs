//! Matrix products: tensor-core gemms, gemv, Hopper's gemms, cuBLASLt, and the choice among them.

pub(crate) mod autotune;
pub(crate) mod cublaslt;
pub(crate) mod gemv;
pub(crate) mod quantized;
pub(crate) mod sm90;
pub(crate) mod tile;
