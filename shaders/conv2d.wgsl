// conv2d as an implicit gemm: row m of A holds the pixels under the kernel at output pixel m =
// (b·H' + y)·W' + x, and column k is channel k % I₄ of tap k / I₄, where I₄ is the number of
// channels rounded up to a multiple of four, or of eight in F16:
//   A[m, k] = x[b, (y·stride + tap / kw − top) / zoom, (x·stride + tap % kw − left) / zoom, k %
// I₄],
// zero outside of the picture. zoom is 2 when the picture is upsampled, so that each pixel is read
// four times. The residual is added with the bias. Constants: HAS_BIAS, HAS_RESIDUAL.

#import shared/input
#import gemm/weights

const HAS_BIAS: bool = false;
const HAS_RESIDUAL: bool = false;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    k4: u32,
    stride: u32,
    tiles: u32,
    first: u32,
    width: u32,
    weight_scale: f32,
    // The picture's size and channels.
    h: u32,
    w: u32,
    channels: u32,
    // I₄.
    padded: u32,
    // The kernel's size, and the output's.
    kh: u32,
    kw: u32,
    out_h: u32,
    out_w: u32,
    step: u32,
    top: u32,
    left: u32,
    // 1 with upsampling, else 0.
    zoom: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;

struct Row {
    // The item's first pixel.
    item: u32,
    // The kernel's upper left corner in the upsampled picture, less the padding: may be negative.
    y: i32,
    x: i32,
}

fn row_at(m: u32) -> Row {
    let y = m / p.out_w % p.out_h;
    let item = m / p.out_w / p.out_h * p.h * p.w;
    return Row(item, i32(y * p.step) - i32(p.top), i32(m % p.out_w * p.step) - i32(p.left));
}

#ifdef X_F16_VEC8

// A tap of the kernel, and a vector of its channels.
struct Place {
    down: i32,
    across: i32,
    channel8: u32,
}

fn place_at(k8: u32) -> Place {
    let tap = k8 / (p.padded / 8u);
    return Place(i32(tap / p.kw), i32(tap % p.kw), k8 % (p.padded / 8u));
}

// The loop avoids a division: few of the many steps end a tap.
fn place_after(at: Place) -> Place {
    var next = at;
    next.channel8 += BK8;
    while (next.channel8 >= p.padded / 8u) {
        next.channel8 -= p.padded / 8u;
        next.across++;
        if (next.across == i32(p.kw)) {
            next.across = 0;
            next.down++;
        }
    }
    return next;
}

fn vec8_at(row: Row, at: Place) -> u32 {
    let y = row.y + at.down;
    let column = row.x + at.across;
    // Negative coordinates are large as u32. Past the last tap the operand is zero, whatever the
    // picture holds there.
    let inside = u32(y) < (p.h << p.zoom) && u32(column) < (p.w << p.zoom) && at.down < i32(p.kh);
    let pixel = row.item + (u32(y) >> p.zoom) * p.w + (u32(column) >> p.zoom);
    return select(ZEROS, FIRST + pixel * (p.padded / 8u) + at.channel8, inside);
}

#else

// A tap of the kernel, and a channel.
struct Place {
    y: i32,
    x: i32,
    channel: u32,
}

fn place_at(k: u32) -> Place {
    let tap = k / p.padded;
    return Place(i32(tap / p.kw), i32(tap % p.kw), k % p.padded);
}

fn operand(row: Row, at: Place) -> Value4 {
    let y = row.y + at.y;
    let column = row.x + at.x;
    let inside = (y >= 0) & (column >= 0) & (y < i32(p.h << p.zoom)) & (column < i32(p.w << p.zoom));
    let pixel = select(0u, row.item + (u32(y) >> p.zoom) * p.w + (u32(column) >> p.zoom), inside);
    let v = x4(row_start(pixel, p.channels) + at.channel, p.channels - at.channel);
    return select(Value4(), v, inside);
}

fn prologue(m0: u32, thread: u32) {}

#endif

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

#import gemm/gemm
