//! `zimage plan`: the memory and the time that a request would take, without loading the model.

use serde::Serialize;
use zimage::bench::Published;
use zimage::pipeline::plan::Expected;
use zimage::{BackendChoice, Estimate, LoadOptions, Needs, Plan, Planned, Request, Result};

/// Show which parts of a model would be on the device, and the memory and time of a request
///
/// The files' headers are read, not the weights. The seconds follow from the operations of each
/// stage and from the speed of one matrix product and of copies to the device, which are timed.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub(super) struct Args {
    #[command(flatten)]
    model: super::model::Args,

    /// A published model at its real sizes, without its files; --weights gives the format of its
    /// large matrices [default of --weights: bf16]
    #[arg(long, value_name = "turbo|base", value_parser = super::bench::published(), conflicts_with = "model", allow_hyphen_values = true)]
    random: Option<Published>,

    /// Width in pixels, a multiple of 16 [default: the model's]
    #[arg(short = 'W', long, value_name = "N", value_parser = super::whole, allow_hyphen_values = true)]
    width: Option<usize>,

    /// Height in pixels, a multiple of 16 [default: the model's]
    #[arg(short = 'H', long, value_name = "N", value_parser = super::whole, allow_hyphen_values = true)]
    height: Option<usize>,

    /// Denoising steps [default: the model's]
    #[arg(short, long, value_name = "N", value_parser = super::whole, allow_hyphen_values = true)]
    steps: Option<usize>,

    /// The strength of the guidance; 0 is off [default: the model's]
    #[arg(short, long, value_name = "G", value_parser = super::number::<f32>, allow_hyphen_values = true)]
    guidance: Option<f32>,

    /// Pictures
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = super::whole, allow_hyphen_values = true)]
    count: usize,

    /// Pictures computed at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::whole, allow_hyphen_values = true)]
    batch: usize,

    /// The backend: auto is the best that this machine has; webgpu:N, webgpu:NAME and cuda:N choose
    /// a device that inspect --device lists
    #[arg(long, default_value = "auto", value_parser = super::backend::ANY, allow_hyphen_values = true)]
    backend: BackendChoice,

    #[command(flatten)]
    precision: super::precision::Args,

    #[command(flatten)]
    residency: super::residency::Args,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`. Memory is in bytes, times are in seconds.
#[derive(Serialize)]
struct Report<'a> {
    plan: String,
    offload: &'static str,
    vae_tile: Option<usize>,
    device: &'a str,
    peak_memory: u64,
    free_memory: Option<u64>,
    files: u64,
    streamed_per_step: u64,
    streamed_per_prompt: u64,
    /// The reasons why the device cannot run the plan, a sentence each.
    obstacles: Vec<String>,
    seconds: Option<Estimate>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let model = match args.random {
        Some(published) => published.with_random_weights(args.model.random_format())?,
        None => {
            let super::model::Opened { model, reports, warnings } = args.model.open()?;
            reports.iter().chain(&warnings).for_each(|line| super::note(line));
            model
        }
    };
    let request = Request {
        width: args.width,
        height: args.height,
        steps: args.steps,
        guidance: args.guidance,
        count: args.count,
        batch: args.batch,
        ..Request::new("")
    };
    let job = request.check(model.config())?;
    let residency = args.residency.residency(Some(Expected::of(&job)));
    let work = [job.steps, job.images()];
    let options = LoadOptions { backend: args.backend.clone(), residency, precision: args.precision.precision()? };
    let planned = pollster::block_on(zimage::plan(options, &model, Some(work)))?;
    let Planned { device, needs, plan, files, obstacles, estimate, .. } = &planned;
    let obstacles: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    if args.json {
        return super::print_json(&Report {
            plan: plan.to_string(),
            offload: plan.offload().name(),
            vae_tile: plan.vae_tile.map(|tile| tile.pixels),
            device,
            peak_memory: plan.peak,
            free_memory: plan.limit,
            files: *files,
            streamed_per_step: plan.streamed,
            streamed_per_prompt: plan.streamed_text,
            obstacles,
            seconds: *estimate,
        });
    }
    let obstacles: String = obstacles.iter().map(|obstacle| format!("impossible: {obstacle}\n")).collect();
    let times = estimate.as_ref().map_or_else(String::new, |estimate| times(estimate, job.steps));
    super::print(&format!("{device}\n{plan}\n\n{}\n{times}{obstacles}", memory(needs, plan)))
}

fn gb(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// The bytes of each part.
fn memory(needs: &Needs, plan: &Plan) -> String {
    let decoder = needs.decoder.iter().find(|(tile, _)| *tile == plan.vae_tile).map_or(0, |(_, bytes)| *bytes);
    let row = |part: &str, all: u64, resident: u64, streamed: u64| {
        let streamed = if streamed == 0 { String::new() } else { gb(streamed) };
        [part.into(), gb(all), gb(resident), streamed]
    };
    let text = &needs.text_encoder;
    let transformer = &needs.transformer;
    let none = String::new;
    let mut rows = vec![
        [none(), "weights".into(), "on the device".into(), "streamed at each use".into()],
        row("text encoder", text.total(), text.resident(plan.text_encoder), plan.streamed_text),
        row("transformer", transformer.total(), transformer.resident(plan.transformer), plan.streamed),
        row("VAE", needs.vae, needs.vae, 0),
    ];
    for (part, bytes) in [
        ("buffer of streamed blocks", plan.buffer),
        ("activations of the text encoder", needs.text),
        ("activations of captions", needs.captions),
        ("activations of a step", needs.step),
        ("activations of decoding", decoder),
        ("the most at once", plan.peak),
    ] {
        rows.push([part.into(), none(), gb(bytes), none()]);
    }
    if let Some(limit) = plan.limit {
        rows.push(["free".into(), none(), gb(limit), none()]);
    }
    let widths: [usize; 4] = std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let line = |[part, rest @ ..]: &[String; 4]| {
        let [name, widths @ ..] = widths;
        let cells: String = rest.iter().zip(widths).map(|(cell, width)| format!("  {cell:>width$}")).collect();
        format!("{part:name$}{cells}").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn times(estimate: &Estimate, steps: usize) -> String {
    let Estimate { load, text_encoder, step, vae, total, .. } = estimate;
    format!(
        "estimated: {load:.1} s to load, {text_encoder:.2} s for the prompts, {steps} steps of {step:.3} s, {vae:.2} s to \
         decode a picture; {total:.1} s in all\n"
    )
}
