//! The results: rows as they are measured, and a JSON document.

use super::timing::Spread;
use serde::Serialize;
use std::fmt;

/// The subject of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Header {
    /// The name of the backend.
    pub backend: String,
    /// Its device in words, with the variant of its kernels.
    pub device: String,
    /// The type of activations.
    pub activations: String,
    /// The type to which gemms round their operands.
    pub operands: String,
    /// The model's name.
    pub model: String,
    /// Width of the picture in pixels.
    pub width: usize,
    /// Height of the picture in pixels.
    pub height: usize,
    /// Tokens of the caption.
    pub caption_tokens: usize,
    /// Tokens of the main layers of the transformer: image and caption, each with its padding.
    pub sequence_tokens: usize,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// `op/…`, `stage/…` or `picture/…`.
    pub name: String,
    /// The sizes, in words.
    pub what: String,
    /// Milliseconds of one call; `None` if the device is out of memory.
    pub ms: Option<Spread>,
    /// Calls in each run; the times are those of one call.
    pub calls: usize,
    /// Floating-point operations of the gemms in one call, for gemm-bound rows.
    pub flop: Option<f64>,
    /// 10¹² floating-point operations per second, at the median.
    pub tflops: Option<f64>,
    /// Minimum bytes that one call moves: inputs read once, outputs written once.
    pub bytes: Option<f64>,
    /// 10⁹ bytes per second, at the median.
    pub gbs: Option<f64>,
    /// The reason for absent times.
    pub problem: Option<String>,
}

impl Row {
    /// A row with the times of one call out of `calls`.
    pub(super) fn new(name: &str, what: &str, ms: Spread, calls: usize) -> Self {
        Self { ms: Some(ms), calls, ..Self::empty(name, what) }
    }

    /// A row without times for the reason `problem`.
    pub(super) fn without_room(name: &str, what: &str, problem: String) -> Self {
        Self { problem: Some(problem), ..Self::empty(name, what) }
    }

    fn empty(name: &str, what: &str) -> Self {
        Self {
            name: name.to_owned(),
            what: what.to_owned(),
            ms: None,
            calls: 0,
            flop: None,
            tflops: None,
            bytes: None,
            gbs: None,
            problem: None,
        }
    }

    /// The row with the floating-point operations of one call.
    pub(super) fn with_flop(self, flop: Option<f64>) -> Self {
        let tflops = flop.zip(self.ms).map(|(flop, ms)| flop / ms.median / 1e9);
        Self { flop, tflops, ..self }
    }

    /// The row with the bytes that one call moves.
    pub(super) fn with_bytes(self, bytes: Option<f64>) -> Self {
        let gbs = bytes.zip(self.ms).map(|(bytes, ms)| bytes / ms.median / 1e6);
        Self { bytes, gbs, ..self }
    }
}

/// The figures of whole pictures that are not rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pictures {
    /// Denoising steps.
    pub steps: usize,
    /// Guidance as in diffusers.
    pub guidance: f32,
    /// The seed.
    pub seed: u64,
    /// Milliseconds of loading the model.
    pub load_ms: f64,
    /// Median milliseconds of one step, with steps queued back to back so that the device never
    /// waits for the host.
    pub step_ms: f64,
    /// Median milliseconds of the denoising loop, from its first launch to the end of its last
    /// step.
    pub loop_ms: f64,
    /// The share of `loop_ms` in which the device is idle: `1 − steps · step_ms / loop_ms`.
    pub idle_in_loop: f64,
    /// The plan of the device's memory, in words.
    pub plan: String,
    /// The bytes that the plan predicts for `peak_memory`.
    pub predicted_memory: u64,
    /// Peak bytes that the backend allocated on the device while it loaded the model and drew
    /// pictures; `None` if it does not count them.
    pub peak_memory: Option<u64>,
}

/// All results.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The subject.
    #[serde(flatten)]
    pub header: Header,
    /// The units of the numbers.
    pub units: Units,
    /// The rows, in the order of their measurement.
    pub rows: Vec<Row>,
    /// The figures of whole pictures; `None` if none was drawn.
    pub pictures: Option<Pictures>,
    /// Peak bytes that the backend allocated on the device over all measurements; `None` if it does
    /// not count them.
    pub peak_memory: Option<u64>,
}

/// The units of the numbers in a [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Units {
    /// The unit of times.
    pub ms: &'static str,
    /// The unit of `tflops`.
    pub tflops: &'static str,
    /// The unit of `gbs`.
    pub gbs: &'static str,
    /// The unit of `peak_memory`.
    pub peak_memory: &'static str,
}

impl Units {
    pub(super) const ALL: Units = Units {
        ms: "milliseconds a call",
        tflops: "10^12 floating-point operations a second",
        gbs: "10^9 bytes a second",
        peak_memory: "bytes",
    };
}

/// Width of the name column.
const NAME: usize = 38;

impl fmt::Display for Header {
    /// The lines above the rows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, device, activations, operands, model, width, height, caption_tokens, sequence_tokens } =
            self;
        writeln!(f, "{backend}: {device}; activations {activations}, operands {operands}")?;
        writeln!(
            f,
            "{model}: {width}×{height}, {caption_tokens} caption tokens, {sequence_tokens} tokens in the main layers"
        )?;
        write!(
            f,
            "{:NAME$} {:>10} {:>10} {:>10} {:>9} {:>9} {:>5}  what",
            "milliseconds a call", "median", "min", "max", "TFLOP/s", "GB/s", "runs"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ms) = self.ms else {
            return write!(f, "{:NAME$} not measured: {}", self.name, self.problem.as_deref().unwrap_or_default());
        };
        let [tflops, gbs] = [self.tflops, self.gbs].map(|value| value.map_or(String::new(), digits));
        let [median, min, max] = [ms.median, ms.min, ms.max].map(digits);
        let Self { name, what, .. } = self;
        write!(f, "{name:NAME$} {median:>10} {min:>10} {max:>10} {tflops:>9} {gbs:>9} {:>5}  {what}", ms.runs)
    }
}

/// Four significant digits, or all digits before the point if there are more.
fn digits(value: f64) -> String {
    let before = value.abs().max(1e-3).log10().floor() as i32;
    format!("{value:.*}", usize::try_from(3 - before).unwrap_or(0))
}

impl Report {
    /// The lines below the rows.
    pub fn summary(&self) -> String {
        let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64);
        let mut lines = String::new();
        if let Some(pictures) = &self.pictures {
            let Pictures { steps, load_ms, step_ms, loop_ms, idle_in_loop, plan, .. } = pictures;
            lines += &format!("{plan}\n");
            lines += &format!(
                "the device is idle for {:.2} % of the denoising loop: {loop_ms:.1} ms for {steps} steps that take \
                 {step_ms:.3} ms each back to back\n",
                100.0 * idle_in_loop
            );
            lines += &format!("the model was loaded in {:.1} s\n", load_ms / 1e3);
            if let Some(bytes) = pictures.peak_memory {
                lines +=
                    &format!("device memory at its peak, loading the model and drawing pictures: {}\n", gib(bytes));
            }
        }
        lines += &match self.peak_memory {
            Some(bytes) => format!("device memory at its peak, over all of these measurements: {}\n", gib(bytes)),
            None => format!("the {} backend does not count the memory that it holds\n", self.header.backend),
        };
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_median() {
        let ms = Spread::of(&[1.0, 2.0, 4.0]);
        let row = Row::new("op/linear/qkv", "", ms, 3).with_flop(Some(6e9)).with_bytes(Some(4e6));
        assert_eq!((row.tflops, row.gbs), (Some(3.0), Some(2.0)));
        let full = Row::without_room("op/linear/qkv", "", "no room".into()).with_flop(Some(6e9));
        assert!(full.tflops.is_none() && full.to_string().ends_with("not measured: no room"), "{full}");
    }

    #[test]
    fn numbers_have_four_significant_digits() {
        let shown = [0.0, 0.000_123, 0.012_345, 1.234_56, 98.765_4, 1234.56, 98_765.4].map(digits);
        assert_eq!(shown, ["0.000000", "0.000123", "0.01235", "1.235", "98.77", "1235", "98765"]);
    }
}
