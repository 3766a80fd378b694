//! The formats of quantised weights that are named and rejected.

use super::index::Index;

/// The name of the format, if the file has weights in one that is not supported.
pub(super) fn format(index: &Index<'_>) -> Option<&'static str> {
    let has = |end: &str| index.ending(end).is_some();
    // nunchaku: 4-bit weights packed for its own kernels, with a low-rank part beside them.
    if has(".qweight") && has(".wscales") {
        return Some("weights of nunchaku's SVDQuant");
    }
    if has(".qweight") && (has(".qzeros") || has(".scales")) {
        return Some("GPTQ or AWQ weights");
    }
    if has("._weight_qdata") || has(".weight:qdata") {
        return Some("torchao weights");
    }
    if has(".quant_state.bitsandbytes__nf4") || has(".quant_state.bitsandbytes__fp4") || has(".weight.absmax") {
        return Some("bitsandbytes weights");
    }
    if has(".weight._data") && has(".weight._scale") {
        return Some("quanto weights");
    }
    // MLX packs 4 or 8 bits into words.
    if has(".scales") && has(".biases") && index.ending(".weight").is_some_and(|tensor| tensor.format == "U32") {
        return Some("MLX weights");
    }
    None
}
