//! The tensors of a GGUF file: names, shapes and formats.

use super::Quantization;
use crate::error::{Error, Result, excerpt};
use crate::tensor::Format;
use crate::weights::gguf::writer::Entry;
use crate::weights::names::{HEAD, Part, Rows, TABLE};
use crate::weights::tensors::{Entry as Stored, Tensors};
use std::collections::BTreeMap;

/// The starts of the names of layers that keep their type: embedders and the final layer.
const KEPT: [&str; 6] = ["t_embedder.", "x_embedder.", "all_x_embedder.", "cap_embedder.", "final_layer.", "all_final"];
/// The starts of the refiners' names.
const REFINERS: [&str; 2] = ["noise_refiner.", "context_refiner."];
/// The most sizes of a tensor (`GGML_MAX_DIMS`).
const MOST_SIZES: usize = 4;

/// A tensor of the file.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) entry: Entry,
    /// The model's names of the tensors whose rows it has, in order.
    pub(super) parts: Vec<String>,
    /// The shape of each of them.
    pub(super) part_shape: Vec<usize>,
    pub(super) fate: Fate,
}

/// The reason for a tensor's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has the format asked for, or is a vector.
    Written,
    /// A matrix that keeps its type.
    Kept,
    /// A matrix whose rows are not whole blocks of the format asked for.
    Misfit,
}

/// The tensors of the file by their names, and the stored names of those that it leaves out.
///
/// # Errors
/// [`Error::Tensor`] for queries, keys and values that cannot be stacked, and for more than four
/// sizes.
pub(super) fn plan(tensors: &Tensors, settings: Quantization) -> Result<(Vec<Planned>, Vec<String>)> {
    let mut stacks: BTreeMap<String, Vec<(Rows, &str, &Stored)>> = BTreeMap::new();
    let mut left_out = Vec::new();
    for (name, entry) in &tensors.entries {
        // A text encoder has no use for the language-model head.
        let unused = name == HEAD && tensors.entries.contains_key(TABLE);
        match settings.part.gguf_name(name).filter(|_| !unused) {
            Some((written, rows)) => stacks.entry(written).or_default().push((rows, name, entry)),
            None => left_out.push(entry.stored(name).to_owned()),
        }
    }
    let planned = stacks.into_iter().map(|(name, stack)| planned(tensors, settings, name, stack));
    Ok((planned.collect::<Result<_>>()?, left_out))
}

/// The tensor that stacks these.
fn planned(
    tensors: &Tensors,
    settings: Quantization,
    name: String,
    mut stack: Vec<(Rows, &str, &Stored)>,
) -> Result<Planned> {
    stack.sort_by_key(|(rows, ..)| match rows {
        Rows::All => 0,
        Rows::Third(third) => *third,
    });
    let (rows, first, stored) = stack[0];
    let fault = |tensor: &str, expected: String, found: String| {
        let (path, tensor) = tensors.stored_as(tensor);
        Error::Tensor { path: path.to_owned(), tensor: excerpt(tensor), expected, found }
    };
    let part_shape = stored.shape.clone();
    if part_shape.len() > MOST_SIZES {
        return Err(fault(first, format!("at most {MOST_SIZES} sizes"), format!("{part_shape:?}")));
    }
    if let Some((_, other, stored)) = stack.iter().find(|(.., stored)| stored.shape != part_shape) {
        return Err(fault(other, format!("the shape of {first}, {part_shape:?}"), format!("{:?}", stored.shape)));
    }
    let count = if rows == Rows::All { 1 } else { 3 };
    if stack.len() != count {
        let found = stack.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(" and ");
        return Err(fault(first, "queries, keys and values".to_owned(), format!("{found} alone")));
    }
    let mut shape = if part_shape.is_empty() { vec![1] } else { part_shape.clone() };
    let stacked = shape[0].checked_mul(count);
    shape[0] = stacked.ok_or_else(|| fault(first, "a shape that memory can hold".into(), format!("{part_shape:?}")))?;
    let plain = match (&stored.beside, stored.dtype.format()) {
        (None, Some(format @ (Format::F32 | Format::F16 | Format::Bf16))) => format,
        _ => Format::Bf16,
    };
    let (format, fate) = format(settings, &name, &shape, plain);
    let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let bytes = elements.and_then(|elements| format.bytes(elements));
    let bytes = bytes.ok_or_else(|| fault(first, format!("whole blocks of {format}"), format!("{shape:?}")))? as u64;
    let parts = stack.into_iter().map(|(_, name, _)| name.to_owned()).collect();
    Ok(Planned { entry: Entry { name, shape, format, bytes }, parts, part_shape, fate })
}

/// The format of a tensor, whose own type is `plain` or is written as that.
fn format(settings: Quantization, name: &str, shape: &[usize], plain: Format) -> (Format, Fate) {
    let [rows, columns] = *shape else {
        return match shape {
            [_] => (Format::F32, Fate::Written),
            _ => (plain, Fate::Kept),
        };
    };
    let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let of_transformer = begins(&KEPT)
        || name.contains(".adaLN_modulation.")
        || rows == 1
        || settings.keep_refiners && begins(&REFINERS);
    if settings.part == Part::Transformer && of_transformer {
        return (plain, Fate::Kept);
    }
    match settings.format {
        format if format.bytes(columns).is_some() => (format, Fate::Written),
        _ if Format::Q8_0.bytes(columns).is_some() => (Format::Q8_0, Fate::Misfit),
        _ => (plain, Fate::Misfit),
    }
}
