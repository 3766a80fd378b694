//! The target of a stored tensor: a name that the model asks for, and the rows that it reads.

use std::ops::Range;

/// The last components of the names of a layer's tensors. Besides weight and bias these are the
/// scales of ComfyUI's quantised files, in its old and its new spelling.
const TAILS: [&str; 10] = [
    "weight",
    "bias",
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "pre_quant_scale",
    "comfy_quant",
    "scale_weight",
    "scale_input",
    "weight_zero_point",
];

/// A name of the model's code under which a stored tensor is read, whole or in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name that the model's code asks for, or the same layer's name with the stored suffix,
    /// such as `layers.0.attention.to_q.weight_scale`.
    pub name: String,
    /// The rows of the stored layer that are the target's.
    pub rows: Rows,
    form: Form,
}

/// The rows of a stored layer that a target reads. For the tensors of scales next to a matrix, they
/// are the rows of that matrix: a scale for the whole matrix holds for each third, and scales in
/// blocks are those of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every row.
    All,
    /// The third with this number, 0 to 2: the queries, keys or values of a fused layer.
    Third(usize),
}

/// The change of a shape on the way from the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Same,
    /// A vector `[N]` is one row `[1, N]`: ggml drops sizes of 1.
    Row,
    /// A 1×1 convolution `[N, K, 1, 1]` is the matrix `[N, K]`.
    Matrix,
}

impl Target {
    /// A tensor that is read whole.
    pub(in crate::weights) fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), rows: Rows::All, form: Form::Same }
    }

    /// A tensor `[1, N]` that some files store as `[N]`.
    pub(super) fn row(name: impl Into<String>) -> Self {
        Self { form: Form::Row, ..Self::whole(name) }
    }

    /// A matrix that some files store as a 1×1 convolution.
    pub(super) fn matrix(name: impl Into<String>) -> Self {
        Self { form: Form::Matrix, ..Self::whole(name) }
    }

    /// The third of a fused layer's tensor.
    pub(super) fn third(name: impl Into<String>, third: usize) -> Self {
        Self { rows: Rows::Third(third), ..Self::whole(name) }
    }

    /// The target's shape, from the stored shape of the weight or bias; `None` if the stored rows
    /// cannot be divided.
    pub fn shape(&self, stored: &[usize]) -> Option<Vec<usize>> {
        let mut shape = match (self.form, stored) {
            (Form::Row, [n]) => vec![1, *n],
            (Form::Matrix, [n, k, 1, 1]) => vec![*n, *k],
            _ => stored.to_vec(),
        };
        if self.rows != Rows::All {
            let rows = shape.first_mut()?;
            *rows = self.rows.range(*rows)?.len();
        }
        Some(shape)
    }
}

impl Rows {
    /// The rows as a range, of `count` stored ones; `None` if they cannot be divided.
    pub fn range(self, count: usize) -> Option<Range<usize>> {
        match self {
            Rows::All => Some(0..count),
            Rows::Third(third) => {
                let rows = count / 3;
                count.is_multiple_of(3).then(|| third * rows..(third + 1) * rows)
            }
        }
    }
}

/// A name as its layer and its last component, if that is one of a layer's tensors.
pub(super) fn layer_and_tail(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, tail)| TAILS.contains(tail))
}

/// The rest of a name after a number, as in `12.attention.qkv`, with the number.
pub(super) fn numbered(name: &str) -> Option<(&str, &str)> {
    const MOST_DIGITS: usize = 4;
    let (number, rest) = name.split_once('.')?;
    let digits = !number.is_empty() && number.len() <= MOST_DIGITS && number.bytes().all(|b| b.is_ascii_digit());
    digits.then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_divide_the_rows() {
        let third = |i| Target::third("to_q.weight", i);
        assert_eq!(third(0).shape(&[11520, 3840]), Some(vec![3840, 3840]));
        assert_eq!(Rows::Third(1).range(11520), Some(3840..7680));
        assert_eq!(Rows::Third(2).range(3), Some(2..3));
        assert_eq!(third(2).shape(&[11521, 3840]), None);
        assert_eq!(third(2).shape(&[]), None);
        assert_eq!(Rows::All.range(7), Some(0..7));
    }

    #[test]
    fn sizes_of_one_are_dropped_and_added() {
        assert_eq!(Target::row("x_pad_token").shape(&[3840]), Some(vec![1, 3840]));
        assert_eq!(Target::row("x_pad_token").shape(&[1, 3840]), Some(vec![1, 3840]));
        assert_eq!(Target::matrix("to_q.weight").shape(&[512, 512, 1, 1]), Some(vec![512, 512]));
        assert_eq!(Target::matrix("to_q.weight").shape(&[512, 512]), Some(vec![512, 512]));
        assert_eq!(Target::matrix("to_q.weight").shape(&[512, 512, 3, 3]), Some(vec![512, 512, 3, 3]));
    }

    #[test]
    fn a_layer_number_has_few_digits() {
        assert_eq!(numbered("12.attention.qkv"), Some(("12", "attention.qkv")));
        for name in ["a.b", "12", ".b", "12345.b", "-1.b", "+1.b"] {
            assert_eq!(numbered(name), None, "{name}");
        }
    }
}
