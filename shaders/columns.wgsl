// What all products share: which row of W stands where in a tile, and the units of their operands.
//
// With pairs, a part of W holds n rows of gates and behind them the n rows of values that belong to them. The columns of
// a tile come in groups of HALF gates and then their HALF values, so that a thread, or a subgroup, has both.
// Constants: PAIRED, and HALF of the product's own file.

const NOTHING: u32 = 0xffffffffu;

// The row of W at column r of the tile that starts at n0, or NOTHING.
fn weight_row(n0: u32, r: u32) -> u32 {
    if (!PAIRED) {
        return select(NOTHING, n0 + r, n0 + r < p.n);
    }
    let feature = n0 / 2u + r / (2u * HALF) * HALF + r % HALF;
    return select(NOTHING, feature + r / HALF % 2u * p.n, feature < p.n);
}

// A sum of products of operands that were brought to another unit, each by a power of two.
fn in_units(sum: f32) -> f32 {
    return sum * x_unit() * bitcast<f32>(0x7f000000u - bitcast<u32>(p.weight_unit));
}
