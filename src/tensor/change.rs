//! Changes of a weight that are made while it is read.

use crate::error::Result;

/// A change of a weight's rows. It is applied to each piece of the weight as F32 values, so that no
/// changed copy of the whole weight exists; see [`Weight::changed`](super::Weight::changed).
pub trait RowChange: Send + Sync {
    /// Changes whole rows in place, from row `first` of the weight on. All threads call it at the
    /// same time, each for other rows and in any order, so it starts no parallel work itself.
    ///
    /// # Errors
    /// An error for values that the change cannot produce, or if memory runs out.
    fn apply(&self, first: usize, rows: &mut [f32]) -> Result<()>;

    /// True if BF16 holds the changed elements as exactly as it held the stored ones. The changed
    /// elements of other stored types are F32.
    fn keeps_bf16(&self) -> bool {
        false
    }
}
