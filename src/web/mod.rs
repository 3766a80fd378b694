//! The library in a browser: the functions that a page's script calls, and the script's functions
//! that this crate calls.
//!
//! It is made for a worker, because a step on the CPU keeps its thread busy. The script provides
//! the files of a model (see [`ModelFiles`]) from a server, from the browser's storage or from
//! disk; everything else happens here. `web/` contains the page.
//!
//! An error reaches the script as an `Error` whose message is the sentence for the user, with
//! `kind` (`request`, `files`, `device`, `cancelled` or `internal`) and for some a `reason`: `lost`
//! when the device and everything loaded on it is gone, `memory` when it has too little memory,
//! `part` when no file has a part of the model.

mod files;
mod request;

use crate::backend::cpu::Cpu;
use crate::backend::webgpu::WebGpu;
use crate::conformance::{Options, Row, compare_each};
use crate::error::{Error, ErrorKind};
use crate::pipeline::plan::Residency;
use crate::pipeline::preview::Preview;
use crate::pipeline::progress::{Progress, Stage};
use crate::pipeline::request::Limits;
use crate::{BackendChoice, Engine, Image, LoadOptions, Model, Offload, Planned};
use files::Files;
pub use files::ModelFiles;
use js_sys::{Function, JSON, Object, Reflect, Uint8Array};
use serde::Serialize;
use std::ops::ControlFlow;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

/// The most bytes of a model that `auto` keeps on the device whole.
const RESIDENT: u64 = 2_000_000_000;

/// A value for the script, or the `Error` that it catches.
type Answer<T> = Result<T, JsValue>;

#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// A loaded model, ready to draw.
#[wasm_bindgen]
#[derive(Debug)]
pub struct ZImageEngine(Engine);

#[wasm_bindgen]
impl ZImageEngine {
    /// Loads the model in `files` onto a backend: `auto`, `webgpu` or `cpu`. `wishes` are those of
    /// [`plan`]. `progress` receives the bytes of weights read so far and the total, first with 0,
    /// and returns true to continue.
    ///
    /// # Errors
    /// Errors of [`Model::new`] and [`Engine::load`].
    pub async fn load(files: ModelFiles, backend: &str, wishes: JsValue, progress: Function) -> Answer<ZImageEngine> {
        let load = async {
            let choice: BackendChoice = backend.parse()?;
            let model = Model::new(Files::model(files).await?).await?;
            let residency = residency(&model, wishes).await?;
            let mut report = |stage: Stage| match stage {
                Stage::Load { done, of } => flow(progress.call2(&JsValue::NULL, &number(done), &number(of))),
                _ => ControlFlow::Continue(()),
            };
            let options = LoadOptions { backend: choice, residency, ..LoadOptions::default() };
            Engine::load(&model, options, &mut report).await
        };
        load.await.map(ZImageEngine).map_err(thrown)
    }

    /// The model, its backend and its device.
    ///
    /// # Errors
    /// None in practice.
    pub fn info(&self) -> Answer<JsValue> {
        let engine = &self.0;
        let config = self.0.config();
        let Limits { multiple, rows, columns, .. } = Limits::of(config);
        let defaults = &config.defaults;
        to_js(&serde_json::json!({
            "model": engine.model(),
            "backend": engine.backend(),
            "device": engine.device(),
            "variant": engine.variant(),
            "defaults": {
                "width": defaults.width,
                "height": defaults.height,
                "steps": defaults.steps,
                "guidance": defaults.guidance,
                "sizes": defaults.sizes,
            },
            "limits": { "multiple": multiple, "maxWidth": columns * multiple, "maxHeight": rows * multiple },
            "warnings": engine.warnings(),
            "loadMs": engine.load_ms(),
            "offload": engine.plan().offload().name(),
        }))
    }

    /// Draws one picture. `progress` receives `{stage, done, of, preview?}` and returns true to
    /// continue.
    ///
    /// # Errors
    /// Errors of [`Engine::generate`].
    pub async fn generate(&self, request: JsValue, progress: Function, preview: bool) -> Answer<JsValue> {
        let run = async {
            let request = request::read(request)?;
            let mut events = Events { progress, wanted: preview, latest: None, steps: [0, 0] };
            self.0.generate(&request, &mut events).await
        };
        let output = run.await.map_err(thrown)?;
        let image = output.images.first().ok_or_else(|| JsValue::from_str("no picture"))?;
        let object = Object::new();
        set(&object, "png", &bytes(&image.to_png().map_err(thrown)?))?;
        pixels(&object, image.width, image.height, &image.pixels)?;
        set(&object, "info", &info(image)?)?;
        set(&object, "warnings", &to_js(&output.run.warnings)?)?;
        let timings = &output.run.timings;
        let milliseconds = serde_json::json!({
            "textEncoder": timings.text_encoder_ms,
            "transformer": timings.transformer_ms,
            "steps": timings.step_ms,
            "vae": timings.vae_ms,
            "total": timings.total_ms,
        });
        set(&object, "timings", &to_js(&milliseconds)?)?;
        Ok(object.into())
    }
}

/// The memory that the model in `files` would take on a backend, without its weights: only the
/// headers of files are read. `wishes` has the fields `offload` (`auto`, `none` or `sequential`),
/// `maxMemory` in bytes, `width` and `height`; missing ones are left to the program and the model.
///
/// # Errors
/// Errors of [`Model::new`] and of the device, and [`Error::Request`] for wishes that cannot be.
#[wasm_bindgen(js_name = plan)]
pub async fn plan(files: ModelFiles, backend: &str, wishes: JsValue) -> Answer<JsValue> {
    let plan = async {
        let choice: BackendChoice = backend.parse()?;
        let model = Model::new(Files::model(files).await?).await?;
        let residency = residency(&model, wishes).await?;
        let options = LoadOptions { backend: choice, residency, ..LoadOptions::default() };
        let planned = crate::plan(options, &model, None).await?;
        Ok((model, planned))
    };
    let (model, Planned { backend, device, plan, files, obstacles, .. }) = plan.await.map_err(thrown)?;
    to_js(&serde_json::json!({
        "model": model.name(),
        "backend": backend,
        "device": device,
        "bytes": files,
        "memory": plan.peak,
        "offload": plan.offload().name(),
        "words": plan.to_string(),
        "obstacles": obstacles.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}

/// The residency of a model. A browser does not tell how much memory its GPU has, so `auto` has the
/// large networks of a model beyond [`RESIDENT`] bytes on the device in turn.
async fn residency(model: &Model, wishes: JsValue) -> crate::Result<Residency> {
    let mut residency = request::residency(wishes, model)?;
    if residency.offload == Offload::Auto && residency.max_memory.is_none() {
        // The bytes of the files do not depend on the backend, and this one opens no device.
        let options = LoadOptions { residency: residency.clone(), ..BackendChoice::Cpu.into() };
        let planned = crate::plan(options, model, None).await?;
        if planned.files > RESIDENT {
            residency.offload = Offload::Sequential;
        }
    }
    Ok(residency)
}

/// Compares every op of `webgpu` with `cpu`: the cases whose names contain `filter`, on inputs of
/// `seed`, with the shaders that `backend` names (`webgpu`, `webgpu:plain`, …). `each` receives
/// each finished row of the report. The report equals the output of `zimage parity --json`.
///
/// # Errors
/// [`Error::Device`] if no adapter runs these shaders; [`Error::Request`] if no case name matches,
/// and for other backends.
#[wasm_bindgen]
pub async fn parity(filter: Option<String>, seed: JsValue, backend: &str, each: Function) -> Answer<JsValue> {
    let compare = async {
        let seed = request::seed(&seed)?.unwrap_or(0);
        let options = Options { seed, filter: filter.unwrap_or_default(), ..Options::default() };
        let BackendChoice::WebGpu(shaders, adapters) = backend.parse()? else {
            return Err(Error::Request(format!("{backend} is not webgpu or one of its variants")));
        };
        let reference = Cpu::new();
        let candidate = WebGpu::open_with(adapters, shaders, u64::MAX).await?;
        let mut row = |row: &Row| {
            if let Ok(row) = to_js(row) {
                // An error that the callback throws does not change the report.
                let _ = each.call1(&JsValue::NULL, &row);
            }
        };
        let report = compare_each(&reference, &candidate, &options, &mut row).await?;
        match report.cases() {
            0 => Err(Error::Request(format!("no case has {:?} in its name", options.filter))),
            _ => Ok(report),
        }
    };
    to_js(&compare.await.map_err(thrown)?)
}

/// The version of this library.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// The size of this module's memory in bytes. It never shrinks, so this is its peak.
#[wasm_bindgen(js_name = heapBytes)]
pub fn heap_bytes() -> f64 {
    (core::arch::wasm32::memory_size(0) * (64 << 10)) as f64
}

/// Reports a run's progress to the script.
struct Events {
    progress: Function,
    wanted: bool,
    /// A preview that waits for the event of its step.
    latest: Option<Preview>,
    /// Steps done, and the total.
    steps: [usize; 2],
}

impl Events {
    fn event(&mut self, stage: &str, [done, of]: [f64; 2]) -> Answer<JsValue> {
        let event = Object::new();
        set(&event, "stage", &stage.into())?;
        set(&event, "done", &done.into())?;
        set(&event, "of", &of.into())?;
        if let Some(Preview { width, height, pixels: rgb }) = self.latest.take() {
            let preview = Object::new();
            pixels(&preview, width, height, &rgb)?;
            set(&event, "preview", &preview)?;
        }
        self.progress.call1(&JsValue::NULL, &event)
    }
}

impl Progress for Events {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        let stage = match stage {
            Stage::TextEncoder => "text",
            Stage::Step { done, of } => {
                self.steps = [done, of];
                "step"
            }
            Stage::Vae => "vae",
            // A network that is loaded in place of the other one.
            Stage::Load { done, of } => return flow(self.event("load", [done as f64, of as f64])),
        };
        flow(self.event(stage, self.steps.map(|count| count as f64)))
    }

    fn wants_preview(&self) -> bool {
        self.wanted
    }

    fn preview(&mut self, pictures: &[Preview]) {
        self.latest = pictures.first().cloned();
    }
}

/// A callback returns `true` to continue. If it throws, the run ends.
fn flow(answer: Answer<JsValue>) -> ControlFlow<()> {
    match answer {
        Ok(answer) if answer.is_truthy() => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    }
}

/// The error, as a script catches it.
fn thrown(error: Error) -> JsValue {
    let kind = match error.kind() {
        ErrorKind::Request => "request",
        ErrorKind::Files => "files",
        ErrorKind::Device => "device",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Internal => "internal",
    };
    let reason = match error {
        Error::Lost(_) => Some("lost"),
        Error::OutOfMemory { .. } => Some("memory"),
        Error::MissingPart { .. } => Some("part"),
        _ => None,
    };
    let object = js_sys::Error::new(&error.to_string());
    // A new object takes any property.
    let _ = set(&object, "kind", &kind.into());
    let _ = reason.map(|reason| set(&object, "reason", &reason.into()));
    object.into()
}

fn set(object: &Object, key: &str, value: &JsValue) -> Answer<()> {
    Reflect::set(object, &key.into(), value).map(|_| ())
}

/// The value as JSON would represent it.
fn to_js(value: &impl Serialize) -> Answer<JsValue> {
    let json = serde_json::to_string(value).map_err(|error| JsValue::from(js_sys::Error::new(&error.to_string())))?;
    JSON::parse(&json)
}

/// Exact below 2⁵³.
fn number(value: u64) -> JsValue {
    (value as f64).into()
}

fn bytes(bytes: &[u8]) -> JsValue {
    Uint8Array::from(bytes).into()
}

/// Sets `width`, `height` and `rgba`, in the form that a canvas takes.
fn pixels(object: &Object, width: usize, height: usize, rgb: &[u8]) -> Answer<()> {
    set(object, "width", &width.into())?;
    set(object, "height", &height.into())?;
    let rgba: Vec<u8> = rgb.chunks_exact(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]).collect();
    set(object, "rgba", &bytes(&rgba))
}

/// The generation data of a picture, under the names of a request.
fn info(image: &Image) -> Answer<JsValue> {
    let info = &image.info;
    let object: Object = to_js(&serde_json::json!({
        "prompt": info.prompt,
        "negative": info.negative,
        "width": info.width,
        "height": info.height,
        "steps": info.steps,
        "guidance": info.guidance,
        "cfgNormalization": info.cfg_normalization,
        "cfgTruncation": info.cfg_truncation,
        "model": info.model,
        "version": info.version,
    }))?
    .into();
    set(&object, "seed", &request::seed_to_js(info.seed))?;
    Ok(object.into())
}
