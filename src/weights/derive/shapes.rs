//! The shapes of a part's tensors, by the names that the model asks for.

use crate::error::{Error, Result, excerpt};
use crate::weights::names::{Spelling, Target};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The shapes of one part in one file.
#[derive(Debug)]
pub struct Shapes {
    path: PathBuf,
    prefix: &'static str,
    /// The stored name and the target's shape by the target's name.
    shapes: BTreeMap<String, (String, Vec<usize>)>,
}

impl Shapes {
    /// The shapes of the part that `spelling` is of, from the stored names and shapes of a file.
    /// `path` is for messages.
    pub fn of<'n>(path: &Path, spelling: &Spelling, stored: impl Iterator<Item = (&'n str, &'n [usize])>) -> Self {
        let targets = stored.flat_map(|(name, shape)| {
            let targets = spelling.targets(name).into_iter();
            // Rows that cannot be divided are kept, so that an error shows them.
            let shape_of = |target: &Target| target.shape(shape).unwrap_or_else(|| shape.to_vec());
            targets.map(move |target| (shape_of(&target), (name.to_owned(), target.name)))
        });
        let shapes = targets.map(|(shape, (stored, name))| (name, (stored, shape))).collect();
        Self { path: path.to_owned(), prefix: spelling.prefix(), shapes }
    }

    /// True if a tensor of this name exists.
    pub(super) fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// The names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().map(String::as_str)
    }

    /// The length of a vector.
    pub(super) fn vector(&self, name: &str) -> Result<usize> {
        match self.shape(name, "a vector")? {
            [length] if *length > 0 => Ok(*length),
            shape => Err(self.wrong(name, "a vector", format!("{shape:?}"))),
        }
    }

    /// The rows of a matrix.
    pub(super) fn rows(&self, name: &str) -> Result<usize> {
        match self.shape(name, "a matrix")? {
            [rows, _] if *rows > 0 => Ok(*rows),
            shape => Err(self.wrong(name, "a matrix", format!("{shape:?}"))),
        }
    }

    /// The input channels of a 3×3 convolution.
    pub(super) fn channels_in(&self, name: &str) -> Result<usize> {
        match self.shape(name, "a 3×3 convolution")? {
            [_, channels, 3, 3] if *channels > 0 => Ok(*channels),
            shape => Err(self.wrong(name, "a 3×3 convolution", format!("{shape:?}"))),
        }
    }

    /// The number of elements of a list, such as `layers` of names `layers.0.…`: their numbers must
    /// have no gap.
    pub(super) fn count(&self, list: &str) -> Result<usize> {
        let number = |name: &str| name.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
        let numbers: BTreeSet<usize> = self.names().filter_map(number).collect();
        match numbers.iter().enumerate().find(|(i, number)| i != *number) {
            None => Ok(numbers.len()),
            Some((gap, _)) => {
                let expected = format!("{list}.0 to {list}.{} without a gap", numbers.len());
                Err(self.wrong(&format!("{list}.{gap}"), &expected, "nothing".to_owned()))
            }
        }
    }

    fn shape(&self, name: &str, expected: &str) -> Result<&[usize]> {
        match self.shapes.get(name) {
            Some((_, shape)) => Ok(shape),
            None => Err(self.wrong(name, expected, "nothing".to_owned())),
        }
    }

    /// The error for a tensor whose shape does not fit those of others.
    pub(super) fn wrong(&self, name: &str, expected: &str, found: String) -> Error {
        let tensor = match self.shapes.get(name) {
            Some((stored, _)) => excerpt(stored),
            None => format!("{}{name}", self.prefix),
        };
        Error::Tensor { path: self.path.clone(), tensor, expected: expected.to_owned(), found }
    }

    /// The error for a value that the shapes do not determine.
    pub(super) fn unknown(&self, problem: String) -> Error {
        Error::file(&self.path, problem)
    }
}

/// `derived` with the values of `given`, which take precedence.
pub(super) fn with_given(derived: Value, given: &Map<String, Value>) -> Value {
    let Value::Object(mut config) = derived else { return derived };
    config.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
    Value::Object(config)
}
