// group_norm, second stage: merges the parts (n, mean, M) that group_norm.wgsl found of each group,
//   n = Σ nᵢ, mean = Σ nᵢ·meanᵢ/n, M = Σ (Mᵢ + nᵢ·(meanᵢ − mean)²),
// and leaves mean and 1/√(M/n + eps). A thread first merges the parts thread, thread + THREADS, … one after the other.
//
// Groups: one for each group of each item. Constants: THREADS.

alias Part = vec2f;

const LARGEST: bool = false;

fn run(at: u32, groups: u32, me: Thread) {
    if (at >= p.items * p.groups) {
        return;
    }
    let count = p.chunks * p.parts;
    var own = vec3f();
    for (var i = me.index; i < count; i += THREADS) {
        let slot = 3u * (at * count + i);
        own = merged(own, vec3f(partial[slot], partial[slot + 1u], partial[slot + 2u]));
    }
    let sums = reduced(me, vec2f(own.x, own.x * own.y));
    let mean = sums.y / sums.x;
    let d = own.y - mean;
    let squares = reduced(me, vec2f(own.z + own.x * d * d, 0.0)).x;
    if (me.index == 0u) {
        moments[2u * at] = mean;
        moments[2u * at + 1u] = 1.0 / sqrt(squares / sums.x + p.eps);
    }
}
