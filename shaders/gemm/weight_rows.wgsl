// The order of W's rows in a tile, and the scales of both operands.
//
// With PAIRED, a piece of W holds n rows of gates and behind them the n rows of their values. The
// columns of a tile come in groups of PAIR_WIDTH gates and then their PAIR_WIDTH values, so that a
// thread, or a subgroup, has both. The importer declares PAIR_WIDTH.

#import shared/input

const PAIRED: bool = false;
const NO_ROW: u32 = 0xffffffffu;

// The row of W at column r of the tile that starts at n0, or NO_ROW.
fn weight_row(n0: u32, r: u32) -> u32 {
    if (!PAIRED) {
        return select(NO_ROW, n0 + r, n0 + r < p.n);
    }
    let feature = n0 / 2u + r / (2u * PAIR_WIDTH) * PAIR_WIDTH + r % PAIR_WIDTH;
    return select(NO_ROW, feature + r / PAIR_WIDTH % 2u * p.n, feature < p.n);
}

// A sum of products without the operands' scales, which are powers of two.
fn unscaled(sum: f32) -> f32 {
    return sum * x_scale() * bitcast<f32>(0x7f000000u - bitcast<u32>(p.weight_scale));
}
