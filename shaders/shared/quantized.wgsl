// Rows of a quantised matrix as the file has them: values8(row, column) are the eight values from
// `column` on, a multiple of eight, with zeros from p.width on.
//
// Blocks and values are those of src/tensor/format and src/tensor/scales, in the same order of
// operations. Wherever a subtraction follows a product, the product is exact: d, sc and q have at
// most 11, 6 and 5 bits. So a compiler that contracts the two into an FMA changes no bit. A driver
// may flush a value below 2^-126 to zero, which only scales beside a matrix can make.
//
// FORMAT is a number below. The importer declares Params and p with width and
//   start          the byte of the first row in `codes`
//   row_bytes      the bytes of a row
//   scale          the scale of the tensor
//   scale_row      the first row's index in the tiles of block scales
//   scale_tiles    the tiles of block scales in a row of tiles
// `codes` goes on for 12 bytes behind the last row.

#import shared/f16

const FORMAT: u32 = 0u;

const Q4_0: u32 = 0u;
const Q8_0: u32 = 1u;
const Q4_K: u32 = 2u;
const Q5_K: u32 = 3u;
const Q6_K: u32 = 4u;
// E4M3 codes with the scale of the tensor, with one for each row, and with E8M0 scales of blocks.
const F8_E4M3: u32 = 5u;
const F8_E4M3_ROWS: u32 = 6u;
const MXFP8: u32 = 7u;
// E2M1 codes with E4M3 scales of blocks and the scale of the tensor.
const NVFP4: u32 = 8u;

@group(0) @binding(1) var<storage, read> codes: array<u32>;
// A float for each row, or the tiles of block scales.
@group(0) @binding(2) var<storage, read> scales: array<u32>;

struct Values8 {
    low: vec4f,
    high: vec4f,
}

fn byte_at(at: u32) -> u32 {
    return (codes[at / 4u] >> (at % 4u * 8u)) & 0xffu;
}

// The four bytes from `at` on, as a little-endian word.
fn word_at(at: u32) -> u32 {
    let word = codes[at / 4u];
    let shift = at % 4u * 8u;
    if (shift == 0u) {
        return word;
    }
    return (word >> shift) | (codes[at / 4u + 1u] << (32u - shift));
}

fn f16_at(at: u32) -> f32 {
    return bitcast<f32>(widened(word_at(at) & 0xffffu));
}

// The four bytes of a word.
fn bytes(word: u32) -> vec4u {
    return (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(0xffu);
}

fn signed_bytes(word: u32) -> vec4i {
    return (vec4i(bitcast<i32>(word)) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u);
}

// A nibble of each byte, the low one or, with a shift of 4, the high one.
fn nibbles(word: u32, shift: u32) -> u32 {
    return (word >> shift) & 0x0f0f0f0fu;
}

fn q4_0(block: u32, i: u32) -> Values8 {
    let d = f16_at(block);
    let qs = block + 2u + i % 16u;
    let shift = i / 16u * 4u;
    let low = vec4i(bytes(nibbles(word_at(qs), shift))) - 8;
    let high = vec4i(bytes(nibbles(word_at(qs + 4u), shift))) - 8;
    return Values8(d * vec4f(low), d * vec4f(high));
}

fn q8_0(block: u32, i: u32) -> Values8 {
    let d = f16_at(block);
    let qs = block + 2u + i;
    return Values8(d * vec4f(signed_bytes(word_at(qs))), d * vec4f(signed_bytes(word_at(qs + 4u))));
}

// The scale d·sc and the minimum dmin·m of a group of Q4_K or Q5_K.
fn group_of_32(block: u32, group: u32) -> vec2f {
    let i = block + 4u + group % 4u;
    var q = vec2u(byte_at(i), byte_at(i + 4u));
    if (group < 4u) {
        q &= vec2u(63u);
    } else {
        let low = byte_at(i + 8u);
        q = vec2u(low & 15u, low >> 4u) | ((q >> vec2u(6u)) << vec2u(4u));
    }
    return vec2f(f16_at(block), f16_at(block + 2u)) * vec2f(q);
}

fn q4_k(block: u32, i: u32) -> Values8 {
    let group = i / 32u;
    let by = group_of_32(block, group);
    let qs = block + 16u + i / 64u * 32u + i % 32u;
    let shift = group % 2u * 4u;
    let low = vec4f(bytes(nibbles(word_at(qs), shift)));
    let high = vec4f(bytes(nibbles(word_at(qs + 4u), shift)));
    return Values8(by.x * low - by.y, by.x * high - by.y);
}

fn q5_k(block: u32, i: u32) -> Values8 {
    let group = i / 32u;
    let by = group_of_32(block, group);
    let qh = block + 16u + i % 32u;
    let qs = block + 48u + i / 64u * 32u + i % 32u;
    let shift = group % 2u * 4u;
    let low_fifth = ((word_at(qh) >> group) & 0x01010101u) << 4u;
    let high_fifth = ((word_at(qh + 4u) >> group) & 0x01010101u) << 4u;
    let low = vec4f(bytes(nibbles(word_at(qs), shift) | low_fifth));
    let high = vec4f(bytes(nibbles(word_at(qs + 4u), shift) | high_fifth));
    return Values8(by.x * low - by.y, by.x * high - by.y);
}

fn q6_k(block: u32, i: u32) -> Values8 {
    // A half of the block, and one of its runs of 32.
    let part = i / 128u;
    let run = i % 128u / 32u;
    let ql = block + part * 64u + run % 2u * 32u + i % 32u;
    let qh = block + 128u + part * 32u + i % 32u;
    let shift = run / 2u * 4u;
    let low_bits = ((word_at(qh) >> (2u * run)) & 0x03030303u) << 4u;
    let high_bits = ((word_at(qh + 4u) >> (2u * run)) & 0x03030303u) << 4u;
    let low = vec4i(bytes(nibbles(word_at(ql), shift) | low_bits)) - 32;
    let high = vec4i(bytes(nibbles(word_at(ql + 4u), shift) | high_bits)) - 32;
    let scale = f16_at(block + 208u) * f32(signed_bytes(byte_at(block + 192u + i / 16u)).x);
    return Values8(scale * vec4f(low), scale * vec4f(high));
}

fn e4m3(code: vec4u) -> vec4f {
    let magnitude = code & vec4u(0x7fu);
    let normal = (magnitude << vec4u(20u)) + vec4u(120u << 23u);
    let subnormal = bitcast<vec4u>(vec4f(magnitude) * exp2_of(-9));
    let finite = select(normal, subnormal, magnitude < vec4u(8u));
    let value = select(finite, vec4u(0x7fc00000u), magnitude == vec4u(0x7fu));
    return bitcast<vec4f>(value | ((code & vec4u(0x80u)) << vec4u(24u)));
}

fn e2m1(code: vec4u) -> vec4f {
    let magnitude = code & vec4u(7u);
    let normal = (magnitude << vec4u(22u)) + vec4u(126u << 23u);
    let subnormal = bitcast<vec4u>(vec4f(magnitude) * 0.5);
    let value = select(normal, subnormal, magnitude < vec4u(2u));
    return bitcast<vec4f>(value | ((code & vec4u(8u)) << vec4u(28u)));
}

// The code of a block's scale, in cuBLAS's tiles of 128 rows × 4 blocks.
fn scale_code(row: u32, block: u32) -> u32 {
    let at = p.scale_row + row;
    let tile = at / 128u * p.scale_tiles + block / 4u;
    return (scales[tile * 128u + at % 32u * 4u + at % 128u / 32u] >> (block % 4u * 8u)) & 0xffu;
}

// The scale of E4M3 and E2M1 codes. E8M0 code 0 is zero, as in src/tensor/format/float8.rs.
fn scale_at(row: u32, column: u32) -> f32 {
    if (FORMAT == F8_E4M3_ROWS) {
        return bitcast<f32>(scales[row]);
    }
    if (FORMAT == MXFP8) {
        return bitcast<f32>(scale_code(row, column / 32u) << 23u);
    }
    if (FORMAT == NVFP4) {
        return p.scale * e4m3(vec4u(scale_code(row, column / 16u))).x;
    }
    return p.scale;
}

fn scaled_f8(at: u32, scale: f32) -> Values8 {
    return Values8(e4m3(bytes(word_at(at))) * scale, e4m3(bytes(word_at(at + 4u))) * scale);
}

fn scaled_f4(at: u32, scale: f32) -> Values8 {
    let word = word_at(at);
    let even = e2m1(bytes(nibbles(word, 4u))) * scale;
    let odd = e2m1(bytes(nibbles(word, 0u))) * scale;
    return Values8(vec4f(even.x, odd.x, even.y, odd.y), vec4f(even.z, odd.z, even.w, odd.w));
}

fn stored8(row: u32, column: u32) -> Values8 {
    let at = p.start + row * p.row_bytes;
    if (FORMAT == Q4_0) {
        return q4_0(at + column / 32u * 18u, column % 32u);
    }
    if (FORMAT == Q8_0) {
        return q8_0(at + column / 32u * 34u, column % 32u);
    }
    if (FORMAT == Q4_K) {
        return q4_k(at + column / 256u * 144u, column % 256u);
    }
    if (FORMAT == Q5_K) {
        return q5_k(at + column / 256u * 176u, column % 256u);
    }
    if (FORMAT == Q6_K) {
        return q6_k(at + column / 256u * 210u, column % 256u);
    }
    if (FORMAT == NVFP4) {
        return scaled_f4(at + column / 2u, scale_at(row, column));
    }
    return scaled_f8(at + column, scale_at(row, column));
}

fn values8(row: u32, column: u32) -> Values8 {
    if (column >= p.width) {
        return Values8(vec4f(), vec4f());
    }
    let values = stored8(row, column);
    let count = vec4u(p.width - column);
    return Values8(
        select(vec4f(), values.low, vec4u(0u, 1u, 2u, 3u) < count),
        select(vec4f(), values.high, vec4u(4u, 5u, 6u, 7u) < count),
    );
}
