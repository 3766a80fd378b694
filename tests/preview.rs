//! Previews: the images shown during a run must resemble the final picture.

use pollster::block_on;
use std::ops::ControlFlow;
use zimage::{BackendChoice, Engine, Model, Preview, Progress, Request, Stage};

/// Collects every preview, with the step that is reported after it.
#[derive(Default)]
struct Watcher {
    previews: Vec<Vec<Preview>>,
    steps: Vec<usize>,
}

impl Progress for Watcher {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        if let Stage::Step { done, .. } = stage {
            self.steps.push(done);
            assert_eq!(self.previews.len(), done, "a preview comes before its step is reported");
        }
        ControlFlow::Continue(())
    }

    fn wants_preview(&self) -> bool {
        true
    }

    fn preview(&mut self, pictures: &[Preview]) {
        self.previews.push(pictures.to_vec());
    }
}

/// Pearson's correlation over all values.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - ma, b - mb)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// The difference between the mean colour of a ring of pixels and that of the picture. Ring 0 is
/// outermost.
fn tint(preview: &Preview, small: &[f64], ring: usize) -> [f64; 3] {
    let Preview { width, height, pixels } = preview;
    let on_ring = |i: usize| {
        let (y, x) = (i / width, i % width);
        y.min(x).min(height - 1 - y).min(width - 1 - x) == ring
    };
    let places: Vec<usize> = (0..width * height).filter(|&i| on_ring(i)).collect();
    let off = |c: usize| places.iter().map(|i| f64::from(pixels[3 * i + c]) - small[3 * i + c]).sum::<f64>();
    [0, 1, 2].map(|c| off(c) / places.len() as f64)
}

#[test]
fn previews_look_like_the_picture() {
    let model = Model::embedded().expect("the embedded default");
    let engine = block_on(Engine::load(&model, BackendChoice::Cpu, &mut |_| ControlFlow::Continue(()))).unwrap();
    for prompt in ["a red fox", "a green frog on a yellow background"] {
        let mut watcher = Watcher::default();
        let request = Request { seed: 7, steps: Some(8), guidance: Some(0.0), ..Request::new(prompt) };
        let output = block_on(engine.generate(&request, &mut watcher)).unwrap();
        let picture = &output.images[0];
        let previews: Vec<&Preview> = watcher.previews.iter().map(|pictures| &pictures[0]).collect();
        assert_eq!(watcher.steps, (0..=previews.len()).collect::<Vec<_>>());

        let last = previews[previews.len() - 1];
        let side = picture.width / last.width;
        let mut small = vec![0.0; last.pixels.len()];
        for (i, &value) in picture.pixels.iter().enumerate() {
            let (y, x, channel) = (i / 3 / picture.width, i / 3 % picture.width, i % 3);
            small[3 * (y / side * last.width + x / side) + channel] += f64::from(value) / (side * side) as f64;
        }
        let alike = |preview: &Preview| {
            let values: Vec<f64> = preview.pixels.iter().map(|&value| f64::from(value)).collect();
            let off = values.iter().zip(&small).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / values.len() as f64;
            (correlation(&values, &small), off.sqrt())
        };
        let (last, off) = alike(last);
        assert!(last > 0.97 && off < 25.0, "{prompt}: {last} {off}");
        let (first, off) = alike(previews[0]);
        assert!(first > 0.9 && off < 40.0, "{prompt}: {first} {off}");
        let [rim, inside] = [0, 1].map(|ring| tint(previews[previews.len() - 1], &small, ring));
        let apart = rim.iter().zip(inside).map(|(rim, inside)| (rim - inside).abs()).fold(0.0, f64::max);
        assert!(apart < 3.0, "{prompt}: the rim is {rim:?} off the picture, its neighbours {inside:?}");
    }
}
