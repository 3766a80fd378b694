pub(crate) mod autotune;
pub(crate) mod cublaslt;
pub(crate) mod sm90;
pub(crate) mod tile;
