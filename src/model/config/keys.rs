//! The keys of one config file, read one by one. Deserialising into a struct would be shorter, but
//! its errors do not name the key.

use crate::error::{Error, Result, excerpt};
use crate::weights::{LONGEST_CONFIG, ModelFolder};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Maximum size in any network.
const LARGEST_SIZE: usize = 1 << 20;
/// Maximum number of layers of one kind.
const MOST_LAYERS: usize = 1000;

/// The keys of a JSON object. A key whose value is null counts as missing.
#[derive(Debug)]
pub(super) struct Keys {
    path: PathBuf,
    /// Prefix of the keys in messages, for a nested object.
    prefix: String,
    map: Map<String, Value>,
}

impl Keys {
    pub(super) async fn read(folder: &ModelFolder, relative: &str) -> Result<Self> {
        let path = folder.path(relative);
        match folder.json(relative, LONGEST_CONFIG).await? {
            Value::Object(map) => Ok(Self { path, prefix: String::new(), map }),
            other => Err(Error::file(&path, format!("expected a JSON object, found {}", excerpt(&other.to_string())))),
        }
    }

    /// A file without keys, used for an absent file.
    pub(super) fn empty(folder: &ModelFolder, relative: &str) -> Self {
        Self { path: folder.path(relative), prefix: String::new(), map: Map::new() }
    }

    /// The object under a key.
    pub(super) fn inner(&self, key: &str) -> Result<Option<Self>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { path: self.path.clone(), prefix: format!("{}{key}.", self.prefix), map: map.clone() }))
            }
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The error for a key whose value cannot be used.
    pub(super) fn fault(&self, key: &str, expected: &str, found: impl Display) -> Error {
        Error::file(&self.path, format!("{}{key}: expected {expected}, found {found}", self.prefix))
    }

    /// As [`Keys::fault`], with the file's value as the found value.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.map.get(key).map_or("nothing".to_owned(), |value| excerpt(&value.to_string()));
        self.fault(key, expected, found)
    }

    /// A whole number in a range.
    pub(super) fn count(&self, key: &str, default: Option<usize>, range: RangeInclusive<usize>) -> Result<usize> {
        let value = match self.get(key) {
            None => default,
            Some(value) => whole(value),
        };
        value
            .filter(|n| range.contains(n))
            .ok_or_else(|| self.wrong(key, &format!("a whole number from {} to {}", range.start(), range.end())))
    }

    /// A size: a positive whole number.
    pub(super) fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        self.count(key, default, 1..=LARGEST_SIZE)
    }

    /// A number of layers, `least` or more.
    pub(super) fn layers(&self, key: &str, default: Option<usize>, least: usize) -> Result<usize> {
        self.count(key, default, least..=MOST_LAYERS)
    }

    /// A list of sizes, `lengths` of them.
    pub(super) fn sizes(&self, key: &str, default: &[usize], lengths: RangeInclusive<usize>) -> Result<Vec<usize>> {
        let sizes = match self.get(key) {
            None => Some(default.to_vec()),
            Some(Value::Array(values)) if lengths.contains(&values.len()) => {
                values.iter().map(|value| whole(value).filter(|n| (1..=LARGEST_SIZE).contains(n))).collect()
            }
            Some(_) => None,
        };
        let count = match (lengths.start(), lengths.end()) {
            (a, b) if a == b => format!("{a}"),
            (a, b) => format!("{a} to {b}"),
        };
        sizes.ok_or_else(|| self.wrong(key, &format!("a list of {count} whole numbers from 1 to {LARGEST_SIZE}")))
    }

    /// A list of up to `most` pairs of sizes; empty if the key is missing.
    pub(super) fn pairs(&self, key: &str, most: usize) -> Result<Vec<[usize; 2]>> {
        let size = |value: &Value| whole(value).filter(|n| (1..=LARGEST_SIZE).contains(n));
        let pair = |value: &Value| match value.as_array().map(Vec::as_slice) {
            Some([first, second]) => Some([size(first)?, size(second)?]),
            _ => None,
        };
        let pairs = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) if values.len() <= most => values.iter().map(pair).collect(),
            Some(_) => None,
        };
        pairs.ok_or_else(|| self.wrong(key, &format!("a list of at most {most} pairs like [1024, 768]")))
    }

    /// A number in a range.
    pub(super) fn real(&self, key: &str, default: Option<f64>, range: RangeInclusive<f64>) -> Result<f64> {
        let value = match self.get(key) {
            None => default,
            Some(value) => value.as_f64(),
        };
        value
            .filter(|x| range.contains(x))
            .ok_or_else(|| self.wrong(key, &format!("a number from {} to {}", range.start(), range.end())))
    }

    /// A number in a range, if the file has one.
    pub(super) fn optional_real(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        self.get(key).map(|_| self.real(key, None, range)).transpose()
    }

    /// True or false; null is false, as in Python.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.map.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// Refuses a key that requests an unimplemented feature: it must be missing, null or false.
    pub(super) fn refuse(&self, key: &str) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(_) => Err(self.wrong(key, "nothing or false, because this is not supported")),
        }
    }

    /// Refuses a null where the reference's class fails instead of using its default.
    pub(super) fn not_null(&self, keys: &[&str]) -> Result<()> {
        match keys.iter().find(|key| self.map.get(**key).is_some_and(Value::is_null)) {
            Some(key) => Err(self.wrong(key, "a value or no such key")),
            None => Ok(()),
        }
    }

    /// Returns the index of a text among the implemented ones, and refuses any other. A missing key
    /// selects the first.
    pub(super) fn one_of(&self, key: &str, supported: &[&str]) -> Result<usize> {
        let text = match self.get(key) {
            None => return Ok(0),
            Some(value) => value.as_str(),
        };
        let place = text.and_then(|text| supported.iter().position(|other| *other == text));
        let expected = || format!("{}, because nothing else is supported", supported.join(" or "));
        place.ok_or_else(|| self.wrong(key, &expected()))
    }

    /// Refuses a list of texts that contains anything except `supported`, and returns its length;
    /// `None` if the key is missing.
    pub(super) fn all_are(&self, key: &str, supported: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) if values.iter().all(|value| value.as_str() == Some(supported)) => {
                Ok(Some(values.len()))
            }
            Some(_) => Err(self.wrong(key, &format!("a list of {supported}, because nothing else is supported"))),
        }
    }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}
