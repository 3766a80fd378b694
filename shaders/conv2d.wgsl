// conv2d: a convolution as a product that never unrolls the picture. Row m of A are the pixels under the kernel at
// output pixel m = (b·H' + y)·W' + x, column k the channel k % I₄ of tap k / I₄, where I₄ is the number of channels
// rounded up to a multiple of four, or of eight where they are read in halves:
//   A[m, k] = x[b, (y·stride + tap / kw − top) / zoom, (x·stride + tap % kw − left) / zoom, k % I₄],
// zero outside of the picture; zoom is 2 when the picture is read as if each pixel were four.
// The residual is added with the bias. Constants: HAS_BIAS, HAS_RESIDUAL.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    k4: u32,
    stride: u32,
    tiles: u32,
    first: u32,
    width: u32,
    // The power of two that W is stored with.
    weight_unit: f32,
    // The picture, the kernel, and the size of the output.
    h: u32,
    w: u32,
    channels: u32,
    // I₄.
    padded: u32,
    kh: u32,
    kw: u32,
    out_h: u32,
    out_w: u32,
    step: u32,
    top: u32,
    left: u32,
    // 1 when pixels are doubled, else 0.
    zoom: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;

struct Row {
    // The item's first pixel.
    item: u32,
    // The kernel's upper left corner in the picture as it is read, less the padding: may be negative.
    y: i32,
    x: i32,
}

fn row_at(m: u32) -> Row {
    let y = m / p.out_w % p.out_h;
    let item = m / p.out_w / p.out_h * p.h * p.w;
    return Row(item, i32(y * p.step) - i32(p.top), i32(m % p.out_w * p.step) - i32(p.left));
}

fn store(m: u32, n: u32, v: f32, unused: f32) {
    let at = m * p.width + p.first + n;
    var y = v;
    if (HAS_BIAS) {
        y += bias[p.first + n];
    }
    if (HAS_RESIDUAL) {
        y += residual[at];
    }
    out[at] = y;
}
