// timestep_embedding, first half: out[r, n] = SiLU(Σₖ e[r, k]·W₁[n, k] + b₁[n]), where e holds
// cos(u·f₀), …, sin(u·f₀), … of the times u = times[step, r] and the frequencies f in x. Its second
// half is a linear.
//
// The angles reach 1000, where WGSL does not bound the error of sin and cos. So a multiple of π/2
// is subtracted in three parts, two of them exact, and polynomials take the rest, within ±π/4.
// Constants: HAS_BIAS.

#import shared/input
#import gemm/weights
#import shared/math

const HAS_BIAS: bool = false;

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
    // Rows in the table of times.
    times: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> times: array<f32>;
@group(0) @binding(6) var<storage, read> step: array<u32>;

struct Row {
    time: f32,
}

fn row_at(m: u32) -> Row {
    return Row(times[min(step[0], p.times - 1u) * p.m + m]);
}

// (cos a, sin a) for |a| up to some thousands.
fn cos_sin(a: f32) -> vec2f {
    let q = round(a * 0.63661975);
    let r = ((a - q * 1.5703125) - q * 0.0004837512969970703) - q * 7.54978995e-08;
    let s = r * r;
    let sine = r + r * s * (-0.166666539 + s * (0.00833211884 - s * 0.000195094975));
    let cosine = 1.0 - 0.5 * s + s * s * (0.041666645 + s * (-0.00138872793 + s * 2.44285897e-05));
    switch (u32(i32(q)) % 4u) {
        case 0u: {
            return vec2f(cosine, sine);
        }
        case 1u: {
            return vec2f(-sine, cosine);
        }
        case 2u: {
            return vec2f(-cosine, -sine);
        }
        default: {
            return vec2f(sine, -cosine);
        }
    }
}

fn sinusoid(time: f32, k: u32) -> f32 {
    let half = p.k / 2u;
    if (k >= p.k) {
        return 0.0;
    }
    let turned = cos_sin(time * x4(k % half, 1u).x);
    return select(turned.y, turned.x, k < half);
}

alias Place = u32;

fn place_at(k: u32) -> Place {
    return k;
}

fn operand(row: Row, k: Place) -> vec4f {
    let t = row.time;
    return vec4f(sinusoid(t, k), sinusoid(t, k + 1u), sinusoid(t, k + 2u), sinusoid(t, k + 3u));
}

fn store(m: u32, n: u32, v: f32, unused: f32) {
    let column = p.first + n;
    var y = v;
    if (HAS_BIAS) {
        y += bias[column];
    }
    out[m * p.width + column] = silu(y);
}

#import gemm/gemm
