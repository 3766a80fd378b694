//! Results do not depend on the number of threads.

use super::super::super::Conv2d;
use super::*;
use rayon::ThreadPoolBuilder;

/// The values of `op` on one to five threads, all of them the same.
fn on_any_threads(name: &str, op: impl Fn(&Cpu) -> Result<CpuTensor> + Sync) {
    let on = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let b = Cpu::new();
            let out = op(&b).unwrap();
            block_on(b.download(&out)).unwrap()
        })
    };
    let one = on(1);
    assert!(one.to_f32().iter().all(|value| value.is_finite()), "{name}");
    for threads in 2..=5 {
        assert!(on(threads).bytes() == one.bytes(), "{name}: {threads} threads do not give what one gives");
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let x = random(1, &[1, 130, 70], 1.0);
    let w = linear(&[random(2, &[90, 70], 1.0)], &[random(3, &[90], 1.0)]);
    on_any_threads("linear", |b| b.linear(&b.upload(&x)?, &w));

    let [gate, up] = [4, 5].map(|seed| Weight::from(random(seed, &[50, 70], 1.0)));
    let w = expect_ready(Cpu::new().upload_swiglu(&gate, &up)).unwrap();
    on_any_threads("swiglu", |b| b.swiglu(&b.upload(&x)?, &w));

    let heads = Heads { query: 4, key_value: 2, dim: 10 };
    let qkv = random(6, &[2, 100, heads.fused_width()], 1.0);
    on_any_threads("attention", |b| {
        b.attention(&b.upload(&qkv)?, heads, Mask { causal: true, lengths: None }, Compute::Native)
    });

    let picture = random(7, &[1, 40, 30, 12], 1.0);
    let w = Cpu::new().upload_conv2d(&random(8, &[20, 12, 3, 3], 1.0), None).unwrap();
    for upsample in [false, true] {
        let geometry = Conv2d { stride: 1, pad: [1; 4], upsample };
        on_any_threads("conv2d", |b| b.conv2d(&b.upload(&picture)?, &w, geometry, None));
    }

    let [weight, bias] = [9, 10].map(|seed| random(seed, &[12], 1.0));
    on_any_threads("group_norm", |b| {
        b.group_norm(&b.upload(&picture)?, &b.upload(&weight)?, &b.upload(&bias)?, 4, 1e-6, true)
    });
}
