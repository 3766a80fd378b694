//! `guide_and_step`: guidance, its norm cap, and the Euler step.

/// One row of the table of steps and what it does to every item of `item` values; see the verb's definition.
pub(super) fn guide_and_step(latents: &mut [f32], prediction: &[f32], row: [f32; 3], item: usize) {
    let [delta, guidance, cap] = row;
    let (positive, negative) = prediction.split_at(latents.len());
    for (b, latents) in latents.chunks_exact_mut(item).enumerate() {
        let p = &positive[b * item..][..item];
        if negative.is_empty() {
            latents.iter_mut().zip(p).for_each(|(x, p)| *x += delta * p);
            continue;
        }
        let q = &negative[b * item..][..item];
        let mut guided: Vec<f32> = p.iter().zip(q).map(|(p, q)| p + guidance * (p - q)).collect();
        let (length, limit) = (norm(&guided), norm(p) * cap);
        if cap > 0.0 && length > limit {
            guided.iter_mut().for_each(|v| *v *= limit / length);
        }
        latents.iter_mut().zip(&guided).for_each(|(x, v)| *x += delta * v);
    }
}

/// The Euclidean length, summed in f64 so that it does not depend on the order.
fn norm(values: &[f32]) -> f32 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32
}
