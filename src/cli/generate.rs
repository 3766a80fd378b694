//! `zimage generate`: prompts become PNG files.

use super::output::Place;
use super::progress::Bar;
use super::prompts;
use super::terminal::Failure;
use serde::Serialize;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;
use zimage::pipeline::plan::Expected;
use zimage::pipeline::request::MAX_STEPS;
use zimage::{BackendChoice, Engine, Error, Image, Info, LoadOptions, Request, Result, RunInfo, VaeTile};

/// Make pictures from prompts
///
/// Steps, guidance and size come from the model when they are not given. Every PNG holds the values
/// that made it; `zimage inspect` shows them, and so do other tools. `zimage models` lists the
/// models on this machine, and `zimage pull` downloads one.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    /// The prompt, in quotes; several prompts make as many pictures, and - reads one from
    /// standard input
    #[arg(value_name = "PROMPT", required_unless_present = "literal")]
    prompts: Vec<String>,

    /// A prompt that is taken as it is, also a single word or one that begins with -; once for each
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    literal: Vec<String>,

    #[command(flatten)]
    model: super::model::Args,

    /// The negative prompt, read only with a guidance above 0. Once for all prompts, or once for
    /// each [default: empty]
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    negative: Vec<String>,

    /// Width in pixels, a multiple of 16 [default: the model's]
    #[arg(short = 'W', long, value_name = "N", value_parser = super::whole, allow_hyphen_values = true)]
    width: Option<usize>,

    /// Height in pixels, a multiple of 16 [default: the model's]
    #[arg(short = 'H', long, value_name = "N", value_parser = super::whole, allow_hyphen_values = true)]
    height: Option<usize>,

    /// Denoising steps; more is slower and finer [default: the model's]
    #[arg(short, long, value_name = "N", value_parser = steps, allow_hyphen_values = true)]
    steps: Option<usize>,

    /// The strength of the guidance: guidance_scale of diffusers, which is the CFG scale of
    /// other tools minus 1; 0 is off and twice as fast [default: the model's]
    #[arg(short, long, value_name = "G", value_parser = super::number::<f32>, allow_hyphen_values = true)]
    guidance: Option<f32>,

    /// Caps the guided prediction's norm at this multiple of the unguided one; 0 is off
    #[arg(long, value_name = "C", default_value_t = 0.0, value_parser = super::number::<f32>, allow_hyphen_values = true)]
    cfg_normalization: f32,

    /// Guidance ends when this share of the way from noise to picture is done, 0 to 1; 1 is never
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = super::number::<f64>, allow_hyphen_values = true)]
    cfg_truncation: f64,

    /// Seed of the noise, a whole number from 0; the same seed makes the same picture, and starts
    /// from the noise of torch.Generator("cpu") [default: a random one, which is shown; also for
    /// -1]
    #[arg(long, value_name = "S", value_parser = Seed::from_str, allow_hyphen_values = true)]
    seed: Option<Seed>,

    /// Pictures a prompt
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = super::whole, allow_hyphen_values = true)]
    count: usize,

    /// Pictures computed at once: more is faster where there is memory for it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::whole, allow_hyphen_values = true)]
    batch: usize,

    /// The tiles of decoding: off is whole pictures, N the same picture in bands of rows that need
    /// no more memory than N×N pixels, a multiple of 8; auto is whole where the device has room
    /// for it
    #[arg(long, value_name = "auto|off|N", default_value_t, value_parser = VaeTile::from_str, allow_hyphen_values = true)]
    vae_tile: VaeTile,

    /// The backend: auto is the best that this machine has; webgpu:N, webgpu:NAME and cuda:N choose
    /// a device that inspect --device lists
    #[arg(long, default_value = "auto", value_parser = super::backend::ANY, allow_hyphen_values = true)]
    backend: BackendChoice,

    #[command(flatten)]
    residency: super::residency::Args,

    #[command(flatten)]
    precision: super::precision::Args,

    /// The PNG to write, over one that is there; several pictures become FILE-1.png, FILE-2.png and
    /// so on; - writes one picture to standard output [default: zimage.png, or zimage-2.png and so
    /// on where that exists]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print what was made, and the milliseconds of every part, as one JSON document to standard
    /// output
    #[arg(long)]
    json: bool,
}

/// Steps. Other programs call the seed -s.
fn steps(text: &str) -> Result<usize, String> {
    match super::whole(text) {
        Ok(steps) if steps <= MAX_STEPS => Ok(steps),
        _ => Err(format!("expected a number of steps from 1 to {MAX_STEPS}; a seed is --seed")),
    }
}

/// A seed as it stands on the command line.
#[derive(Debug, Clone, Copy)]
enum Seed {
    Random,
    Fixed(u64),
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "-1" => Ok(Seed::Random),
            _ => text
                .parse()
                .map(Seed::Fixed)
                .map_err(|_| format!("expected a whole number from 0 to {}, or -1 for a random one", u64::MAX)),
        }
    }
}

impl Seed {
    fn number(self) -> u64 {
        match self {
            Seed::Fixed(seed) => seed,
            // Keyed by the system's randomness. 32 bits are all that torch's generator takes, and
            // are easier to copy.
            Seed::Random => RandomState::new().build_hasher().finish() & u64::from(u32::MAX),
        }
    }
}

impl Args {
    /// The prompts, and warnings about them.
    fn read_prompts(&self) -> Result<(Vec<String>, Vec<String>)> {
        prompts::check(&self.prompts, &self.literal, &self.negative)?;
        let mut read = self.prompts.clone();
        let from_stdin: Vec<_> = read.iter_mut().filter(|prompt| *prompt == "-").collect();
        if from_stdin.len() > 1 {
            return Err(Error::Request("standard input is one prompt: use - once".into()));
        }
        for prompt in from_stdin {
            *prompt = prompts::read_stdin()?;
        }
        let warnings = prompts::warnings(&read);
        Ok(([read, self.literal.clone()].concat(), warnings))
    }

    fn request(&self, prompts: Vec<String>) -> Request {
        Request {
            prompts,
            negative: self.negative.clone(),
            width: self.width,
            height: self.height,
            steps: self.steps,
            guidance: self.guidance,
            cfg_normalization: self.cfg_normalization,
            cfg_truncation: self.cfg_truncation,
            seed: self.seed.unwrap_or(Seed::Random).number(),
            count: self.count,
            batch: self.batch,
            vae_tile: self.vae_tile,
        }
    }
}

pub(super) fn run(args: &Args, start: Instant) -> Result<(), Failure> {
    let pictures = (args.prompts.len() + args.literal.len()).saturating_mul(args.count);
    let place = Place::check(args.output.as_deref(), pictures)?;
    if args.json {
        if place.is_stdout() {
            return Err(Error::Request("-o - and --json both need standard output: name a file with -o".into()).into());
        }
        super::streams::check_stdout()?;
    }
    let (prompts, odd) = args.read_prompts()?;
    let request = args.request(prompts);
    let mut bar = Bar::of(pictures, args.batch);
    let mut made = Made { files: Vec::new(), warnings: Warnings { told: Vec::new(), aloud: !args.json } };
    made.warnings.tell(odd, &bar);
    let result = make(args, &request, &place, &mut bar, &mut made);
    bar.clear();
    let (engine, run) = result.map_err(|error| {
        let kept = made.files.iter().map(|(file, _)| file.clone()).filter(|file| file != "-").collect();
        Failure { kept, ..error.into() }
    })?;
    made.warnings.tell(run.warnings.clone(), &bar);
    let total_ms = start.elapsed().as_secs_f64() * 1e3;
    let report = Report::new(&engine, &run, &made, total_ms);
    if args.json {
        return Ok(super::print_json(&report)?);
    }
    report.tell();
    Ok(())
}

/// The files that were written, each with the values that made it, and the warnings of the run.
struct Made {
    files: Vec<(String, Info)>,
    warnings: Warnings,
}

/// Warnings, each once, in the order in which they came up.
struct Warnings {
    told: Vec<String>,
    /// True if they are printed at once; else they are part of the document of `--json`.
    aloud: bool,
}

impl Warnings {
    fn tell(&mut self, warnings: Vec<String>, bar: &Bar) {
        for warning in warnings {
            if self.told.contains(&warning) {
                continue;
            }
            if self.aloud {
                bar.note(&format!("warning: {warning}"));
            }
            self.told.push(warning);
        }
    }
}

/// Loads the model, makes the pictures and writes each as soon as it is there, so that what is done
/// is not lost when the run ends early. Warnings come before the work that they are about.
fn make(
    args: &Args,
    request: &Request,
    place: &Place,
    bar: &mut Bar,
    Made { files, warnings }: &mut Made,
) -> Result<(Engine, RunInfo)> {
    let super::model::Opened { model, reports, warnings: unused } = args.model.open()?;
    reports.iter().for_each(|report| bar.note(report));
    warnings.tell(unused, bar);
    // Before minutes of reading weights.
    let job = request.check(model.config())?;
    if job.guidance.scale == 0.0 && request.negative.iter().any(|text| !text.is_empty()) {
        let unread = "the negative prompt is not read: it needs a guidance above 0 (--guidance)";
        warnings.tell(vec![unread.to_owned()], bar);
    }
    warnings.tell(job.warnings.clone(), bar);
    let residency = args.residency.residency(Some(Expected::of(&job)));
    let options = LoadOptions { backend: args.backend.clone(), residency, precision: args.precision.precision()? };
    let engine = pollster::block_on(Engine::load(&model, options, bar))?;
    if !args.json && !engine.uses_host_memory() {
        bar.note(&format!("plan: {}", engine.plan()));
    }
    let interrupt = bar.interrupt();
    interrupt.check()?;
    warnings.tell(engine.warnings().to_vec(), bar);
    let each = &mut |image: Image| {
        // A signal in the last moment still means that no further file is wanted.
        interrupt.check()?;
        let file = place.write(&image, files.len())?;
        files.push((file, image.info));
        Ok(())
    };
    let run = pollster::block_on(engine.generate_each(request, bar, each))?;
    Ok((engine, run))
}

/// The results: the document of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    images: Vec<Picture<'a>>,
    steps: Option<usize>,
    guidance: Option<f32>,
    /// The side of the tiles that the pictures were decoded in; null when they were decoded whole.
    vae_tile: Option<usize>,
    /// The offloading of the model's networks: `none` for all of them on the device at once,
    /// `sequential`, or `stream`.
    offload: &'static str,
    /// The plan of the device's memory in words, and its bytes: predicted before the run, and
    /// counted up to its end; null if the backend does not count them.
    plan: String,
    predicted_memory: u64,
    peak_memory: Option<u64>,
    /// The type that matrix products rounded their operands to.
    operands: String,
    model: &'a str,
    backend: &'static str,
    device: String,
    milliseconds: Milliseconds,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Picture<'a> {
    file: &'a str,
    seed: u64,
    width: usize,
    height: usize,
    prompt: &'a str,
}

/// `total` runs from the start of the process to the end of the last file, the others are the
/// engine's own measurements within it; what no part accounts for is the program's start, the
/// tokenizer and the writing of the files.
#[derive(Serialize)]
struct Milliseconds {
    load: f64,
    text_encoder: f64,
    transformer: Transformer,
    vae: f64,
    total: f64,
}

#[derive(Serialize)]
struct Transformer {
    total: f64,
    per_step: Vec<f64>,
}

impl<'a> Report<'a> {
    fn new(engine: &'a Engine, run: &'a RunInfo, made: &'a Made, total_ms: f64) -> Self {
        let Made { files, warnings } = made;
        let first = files.first().map(|(_, info)| info);
        let pictures = files.iter().map(|(file, info)| Picture {
            file,
            seed: info.seed,
            width: info.width,
            height: info.height,
            prompt: &info.prompt,
        });
        let timings = &run.timings;
        Self {
            images: pictures.collect(),
            steps: first.map(|info| info.steps),
            guidance: first.map(|info| info.guidance),
            vae_tile: run.vae_tile,
            offload: run.offload.name(),
            plan: engine.plan().to_string(),
            predicted_memory: engine.plan().peak,
            peak_memory: engine.peak_memory(),
            operands: engine.operands().to_string(),
            model: engine.model(),
            backend: engine.backend(),
            device: engine.device(),
            milliseconds: Milliseconds {
                load: milliseconds(engine.load_ms() + timings.load_ms),
                text_encoder: milliseconds(timings.text_encoder_ms),
                transformer: Transformer {
                    total: milliseconds(timings.transformer_ms),
                    per_step: timings.step_ms.iter().copied().map(milliseconds).collect(),
                },
                vae: milliseconds(timings.vae_ms),
                total: milliseconds(total_ms),
            },
            warnings: &warnings.told,
        }
    }

    /// Says it in words, a line a picture.
    fn tell(&self) {
        let seconds = self.milliseconds.total / 1e3;
        let alone = self.images.len() == 1;
        for Picture { file, seed, width, height, .. } in &self.images {
            let file = if *file == "-" { "to standard output" } else { file };
            let time = if alone { format!(", {seconds:.1} s") } else { String::new() };
            super::note(&format!("wrote {file} ({width}×{height}, seed {seed}{time})"));
        }
        if !alone {
            super::note(&format!("{} pictures in {seconds:.1} s", self.images.len()));
        }
    }
}

/// To the microsecond: the digits beyond it are noise.
fn milliseconds(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_whole_numbers_or_random() {
        assert!(matches!("7".parse(), Ok(Seed::Fixed(7))));
        assert!(matches!("18446744073709551615".parse(), Ok(Seed::Fixed(u64::MAX))));
        assert!(matches!("-1".parse(), Ok(Seed::Random)));
        for text in ["-2", "1.5", "", "x"] {
            assert!(text.parse::<Seed>().is_err(), "{text}");
        }
        let drawn: std::collections::HashSet<u64> = (0..8).map(|_| Seed::Random.number()).collect();
        assert!(drawn.len() > 1 && drawn.iter().all(|&seed| seed <= u64::from(u32::MAX)));
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        assert_eq!(milliseconds(1.234_567), 1.235);
    }
}
