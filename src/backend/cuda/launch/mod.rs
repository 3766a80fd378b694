pub(crate) mod gpu;
pub(crate) mod recording;
pub(crate) mod tensor_map;
