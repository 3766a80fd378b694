//! Transforms of a model's weights: name → change, applied as each weight is read.

use crate::future::BoxFuture;
use crate::tensor::{RowChange, Weight};
use std::fmt;

/// A change of some weights of a model; see
/// [`ModelFolder::with_transform`](super::ModelFolder::with_transform).
pub trait Transform: fmt::Debug + Send + Sync {
    /// True for the weights that this transform changes.
    fn changes(&self, name: &str) -> bool;

    /// Prepares the change of the weight `name`. `weight` is this weight before the change, for a
    /// change of each row that depends on other rows. Reading it costs a second pass.
    ///
    /// # Errors
    /// An error if the change does not fit the weight, or if memory runs out; read errors.
    fn open<'f, 't: 'f>(&'t self, name: &'f str, weight: &'f Weight<'_>) -> BoxFuture<'f, Box<dyn RowChange + 't>>;
}
