//! Fused projections in FP8: their layout in memory, and their values.
//!
//! The codes of queries and keys come first, `[items, tokens, queries + keys]`. Those of the values
//! follow, transposed, because the tensor cores read 8-bit operands along the sum only: `[items,
//! keys, value stride]`. The scales beside them are F32: that of all queries, that of all keys,
//! then those of the values, `[items, key heads, blocks]`, one for each head and block of
//! [`FP8_VALUE_TOKENS`] tokens. `kernels/common/fp8.cuh` gives the reasons for the orders of codes.

use crate::backend::Heads;
use crate::tensor::{FP8_BLOCK, FP8_VALUE_TOKENS, FP8_VECTOR, Format};

/// The sizes of a projection in FP8. Heads are [`FP8_BLOCK`] wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Projection {
    items: usize,
    tokens: usize,
    queries: usize,
    keys: usize,
}

impl Projection {
    /// The scales of queries and of keys.
    const QK_SCALES: usize = 2;

    pub(crate) fn new([items, tokens]: [usize; 2], heads: Heads) -> Self {
        let [queries, keys] = heads.columns();
        Self { items, tokens, queries, keys }
    }

    /// The columns of queries and of keys.
    pub(crate) fn columns(&self) -> [usize; 2] {
        [self.queries, self.keys]
    }

    /// The sizes of the codes of queries and keys, innermost first.
    pub(crate) fn code_sizes(&self) -> [usize; 3] {
        [self.queries + self.keys, self.tokens, self.items]
    }

    /// The sizes of the transposed values, innermost first. A row has a code for each token, then
    /// zeros.
    pub(crate) fn value_sizes(&self) -> [usize; 3] {
        [self.tokens.next_multiple_of(FP8_VECTOR), self.keys, self.items]
    }

    /// The byte of the first value.
    pub(crate) fn value_start(&self) -> usize {
        self.code_sizes().iter().product()
    }

    /// The bytes of all codes.
    pub(crate) fn bytes(&self) -> usize {
        self.value_start() + self.value_sizes().iter().product::<usize>()
    }

    /// The number of scales.
    pub(crate) fn scales(&self) -> usize {
        Self::QK_SCALES + self.items * self.keys / FP8_BLOCK * self.value_blocks()
    }

    /// The blocks of a head's values.
    pub(crate) fn value_blocks(&self) -> usize {
        self.tokens.div_ceil(FP8_VALUE_TOKENS)
    }

    /// The values `[items, tokens, queries + 2·keys]` of these codes and scales.
    pub(crate) fn values(&self, codes: &[u8], scales: &[f32]) -> Vec<f32> {
        let Self { items, tokens, queries, keys } = *self;
        let normed = queries + keys;
        let (qk_codes, v_codes) = codes.split_at(self.value_start());
        let (qk_scales, v_scales) = scales.split_at(Self::QK_SCALES);
        let stride = self.value_sizes()[0];
        let mut code_of = Vec::with_capacity(items * tokens * (normed + keys));
        for (token, row) in qk_codes.chunks_exact(normed).enumerate() {
            let (item, token) = (token / tokens, token % tokens);
            code_of.extend((0..normed).map(|column| row[code_place(column)]));
            code_of.extend((0..keys).map(|column| v_codes[(item * keys + column) * stride + value_place(token)]));
        }
        let mut values = vec![0.0; code_of.len()];
        Format::F8E4m3.dequantize(&code_of, &mut values);
        for (token, row) in values.chunks_exact_mut(normed + keys).enumerate() {
            let (item, block) = (token / tokens, token % tokens / FP8_VALUE_TOKENS);
            row[..queries].iter_mut().for_each(|value| *value *= qk_scales[0]);
            row[queries..normed].iter_mut().for_each(|value| *value *= qk_scales[1]);
            for (head, values) in row[normed..].chunks_exact_mut(FP8_BLOCK).enumerate() {
                let scale = v_scales[(item * (keys / FP8_BLOCK) + head) * self.value_blocks() + block];
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
        values
    }
}

/// The place of the code of a column in the queries or keys of a token: `code_place` of
/// `kernels/common/fp8.cuh`.
fn code_place(column: usize) -> usize {
    let (part, column) = (column / 64 * 64, column % 64);
    let [j, q, i] = [column / 8, column % 8 / 2, column % 2];
    part + 16 * q + 2 * j + i
}

/// The place of the code of a token in a row of transposed values: `value_place` of
/// `kernels/common/fp8.cuh`.
fn value_place(token: usize) -> usize {
    let [group, half, g] = [token / 16, token % 16 / 8, token % 8];
    16 * group + 2 * g + half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(places: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn codes_are_in_the_order_of_accumulators() {
        assert_eq!([0, 1, 2, 3, 7, 8, 9, 63, 64].map(code_place), [0, 1, 16, 17, 49, 2, 3, 63, 64]);
        assert_eq!(sorted((0..128).map(code_place)), (0..128).collect::<Vec<_>>());
        assert_eq!([0, 8, 1, 9, 7, 15, 16].map(value_place), [0, 1, 2, 3, 14, 15, 16]);
        assert_eq!(sorted((0..64).map(value_place)), (0..64).collect::<Vec<_>>());
    }

    #[test]
    fn values_are_transposed_and_have_scales_of_blocks() {
        // Two items of 65 tokens, two query heads and a key head.
        let heads = Heads { query: 2, key_value: 1, dim: FP8_BLOCK };
        let projection = Projection::new([2, 65], heads);
        assert_eq!(projection.value_sizes(), [80, 128, 2]);
        assert_eq!((projection.bytes(), projection.scales()), (2 * 65 * 384 + 2 * 128 * 80, 2 + 2 * 2));
        // 1 is 0x38, and 2 is 0x40.
        let mut codes = vec![0x38; projection.bytes()];
        // Column 2 of the first token's queries, and column 3 of token 9 of the second item's
        // values.
        codes[16] = 0x40;
        codes[projection.value_start() + (128 + 3) * 80 + 3] = 0x40;
        let values = projection.values(&codes, &[3.0, 5.0, 7.0, 9.0, 11.0, 13.0]);
        let of = |item: usize, token: usize, column: usize| values[(item * 65 + token) * 512 + column];
        assert_eq!([of(0, 0, 1), of(0, 0, 2), of(0, 0, 255), of(1, 64, 256)], [3.0, 6.0, 3.0, 5.0]);
        assert_eq!([of(0, 63, 384), of(0, 64, 511), of(1, 63, 384), of(1, 64, 511)], [7.0, 9.0, 11.0, 13.0]);
        assert_eq!([of(1, 9, 387), of(1, 8, 387), of(1, 9, 386)], [22.0, 11.0, 11.0]);
    }
}
