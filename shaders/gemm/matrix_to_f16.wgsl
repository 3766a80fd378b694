// A matrix in F16 with a scale: out[n, k] = f16(w[n, k]·2^e), rounded to nearest, ties to even. The
// host knows e, because it has seen all of w: see webgpu/matrix/f16.rs. NaN and infinities stay.
//
// BF16 and F16 are converted in place, F32 from `stored`, whose rows are padded to 64 bytes like
// all rows. One thread converts eight values. Constants: STORED, 0 for F32, 1 for BF16, 2 for F16.

#import shared/dispatch
#import shared/f16

const STORED: u32 = 0u;

struct Params {
    // Vectors of eight in all rows, in a row, and in a row of `stored`.
    vectors: u32,
    row: u32,
    stored_row: u32,
    e: i32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> stored: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> matrix: array<vec4u>;

fn pair(low: u32, high: u32) -> u32 {
    return narrowed_pair(low, high, exp2_of(p.e));
}

fn converted(word: u32) -> u32 {
    if (STORED == 1u) {
        return pair(word << 16u, word & 0xffff0000u);
    }
    return pair(widened(word & 0xffffu), widened(word >> 16u));
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = workgroup_index(group, groups) * 256u + thread;
    if (at >= p.vectors) {
        return;
    }
    if (STORED != 0u) {
        let words = matrix[at];
        matrix[at] = vec4u(converted(words.x), converted(words.y), converted(words.z), converted(words.w));
        return;
    }
    let row = at / p.row;
    let column = at % p.row;
    if (column >= p.stored_row) {
        matrix[at] = vec4u();
        return;
    }
    let first = 2u * (row * p.stored_row + column);
    let a = stored[first];
    let b = stored[first + 1u];
    matrix[at] = vec4u(pair(a.x, a.y), pair(a.z, a.w), pair(b.x, b.y), pair(b.z, b.w));
}
