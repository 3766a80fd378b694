//! The frequencies of `timestep_embedding`, computed on the host: a GPU's exponential is not exact
//! enough for angles of 1000.

use super::lock;
use crate::backend::ops::MAX_PERIOD;
use crate::error::Result;
use std::collections::HashMap;
use std::sync::Mutex;

/// Uploaded frequencies by their number.
#[derive(Debug)]
pub(crate) struct Frequencies<T>(Mutex<HashMap<usize, T>>);

impl<T> Default for Frequencies<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Frequencies<T> {
    /// `10000^(−i/count)` for `i < count` as a tensor `[count]`, which `upload` makes on first use.
    pub(crate) fn get(&self, count: usize, upload: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
        if let Some(tensor) = lock(&self.0).get(&count) {
            return Ok(tensor.clone());
        }
        let frequency = |i| (-MAX_PERIOD.ln() * i as f32 / count as f32).exp();
        let values: Vec<f32> = (0..count).map(frequency).collect();
        let tensor = upload(&values)?;
        lock(&self.0).insert(count, tensor.clone());
        Ok(tensor)
    }
}
