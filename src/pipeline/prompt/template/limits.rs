//! The memory that a template may fill.
//!
//! `minijinja` counts the steps of a template, but one step may make a text of any length.
//! Everything that makes a value from others is charged here: its size, with all that it holds, and
//! the sum of all such sizes.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes of one value, with all that it holds.
const LARGEST: usize = 1 << 20;

/// The most bytes of all values that a template makes.
const MOST: usize = 1 << 26;

/// The most bytes of the text that a template writes.
const LONGEST_TEXT: usize = 1 << 18;

/// The most lists inside each other.
const DEEPEST: usize = 32;

/// The bytes of a value beside those of its text.
const ITEM: usize = 32;

/// The bytes that one rendering has made so far.
#[derive(Debug, Default)]
pub(super) struct Limits {
    made: AtomicUsize,
    written: AtomicUsize,
}

pub(super) fn refused(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// # Errors
/// When a template has written too much.
pub(super) fn check_text(text: &str) -> Result<(), Error> {
    if text.len() > LONGEST_TEXT {
        return Err(refused(format!("it writes more than {LONGEST_TEXT} bytes")));
    }
    Ok(())
}

impl Limits {
    /// Charges for `bytes` that are about to be made.
    ///
    /// # Errors
    /// When they are too many.
    pub(super) fn make(&self, bytes: usize) -> Result<(), Error> {
        if bytes > LARGEST || self.made.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > MOST {
            return Err(refused(format!("it makes values of more than {LARGEST} bytes, or {MOST} in all")));
        }
        Ok(())
    }

    /// Charges for a value and all that it holds, and hands it back.
    ///
    /// # Errors
    /// When it is too large.
    pub(super) fn made(&self, value: Value) -> Result<Value, Error> {
        let mut left = LARGEST;
        match measure(&value, &mut left, 0) {
            Some(()) => self.make(LARGEST - left)?,
            None => self.make(usize::MAX)?,
        }
        Ok(value)
    }

    /// Charges for `bytes` that are about to be written.
    ///
    /// # Errors
    /// When the text becomes too long.
    pub(super) fn write(&self, bytes: usize) -> Result<(), Error> {
        if self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > LONGEST_TEXT {
            return Err(refused(format!("it writes more than {LONGEST_TEXT} bytes")));
        }
        Ok(())
    }
}

/// Takes the size of a value from `left`; `None` when it does not fit.
fn measure(value: &Value, left: &mut usize, depth: usize) -> Option<()> {
    let text = value.as_str().map_or(0, str::len);
    *left = left.checked_sub(text + ITEM)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map if depth == DEEPEST => None,
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter().ok()?.try_for_each(|item| measure(&item, left, depth + 1))
        }
        ValueKind::Map => value.try_iter().ok()?.try_for_each(|key| {
            measure(&key, left, depth + 1)?;
            measure(&value.get_item(&key).ok()?, left, depth + 1)
        }),
        _ => Some(()),
    }
}
