//! The padding of matrices with block scales.

use super::tensors::{Entry, Tensors};
use std::collections::BTreeMap;

/// The ends of two names: of a matrix, and of the tensor whose length or rows are its columns.
const COLUMNS: [(&str, &str); 13] = [
    ("attention.to_q.weight", "attention_norm1.weight"),
    ("attention.to_k.weight", "attention_norm1.weight"),
    ("attention.to_v.weight", "attention_norm1.weight"),
    ("attention.to_out.0.weight", "attention_norm1.weight"),
    ("feed_forward.w1.weight", "attention_norm1.weight"),
    ("feed_forward.w3.weight", "attention_norm1.weight"),
    ("feed_forward.w2.weight", "feed_forward.w1.weight"),
    ("self_attn.q_proj.weight", "input_layernorm.weight"),
    ("self_attn.k_proj.weight", "input_layernorm.weight"),
    ("self_attn.v_proj.weight", "input_layernorm.weight"),
    ("mlp.gate_proj.weight", "input_layernorm.weight"),
    ("mlp.up_proj.weight", "input_layernorm.weight"),
    ("mlp.down_proj.weight", "mlp.gate_proj.weight"),
];

/// The columns of the matrix `name` without padding, as far as its layer has a tensor of that size.
fn columns(entries: &BTreeMap<String, Entry>, name: &str) -> Option<usize> {
    let source = COLUMNS.iter().find_map(|(end, source)| Some(format!("{}{source}", name.strip_suffix(end)?)))?;
    entries.get(&source)?.shape.first().copied()
}

impl Tensors {
    /// Cuts padding off the listed columns of matrices with block scales, so that their shapes are
    /// those of the model.
    pub(super) fn cut_padding(&mut self) {
        let padded = self.entries.iter().filter_map(|(name, entry)| {
            let block = entry.beside.as_ref()?.0.scaled_columns()?;
            let own = columns(&self.entries, name)?;
            let is_padded = entry.shape.len() == 2 && own.checked_next_multiple_of(block) == Some(entry.shape[1]);
            (is_padded && own != entry.shape[1]).then(|| (name.clone(), own))
        });
        for (name, own) in padded.collect::<Vec<_>>() {
            self.entries.entry(name).and_modify(|entry| entry.shape[1] = own);
        }
    }
}
