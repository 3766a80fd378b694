pub(crate) mod arena;
pub(crate) mod layout;
pub(crate) mod staging;
pub(crate) mod tensor;
