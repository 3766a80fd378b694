//! A request in the form that a script writes.

use crate::error::{Error, Result};
use crate::pipeline::plan::{Expected, Residency};
use crate::pipeline::request::Request;
use crate::{Model, Offload};
use serde::Deserialize;
use wasm_bindgen::prelude::{JsCast, JsValue};

/// The largest integer that a script's number represents safely: 2⁵³ − 1.
const LARGEST_NUMBER: u64 = (1 << 53) - 1;

/// A request from a script. A missing or `undefined` field is the model's default.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    prompt: String,
    negative: Option<String>,
    width: Option<usize>,
    height: Option<usize>,
    steps: Option<usize>,
    seed: Option<u64>,
    guidance: Option<f32>,
    cfg_normalization: Option<f32>,
    cfg_truncation: Option<f64>,
}

/// Reads `{prompt, negative?, width?, height?, steps?, seed?, guidance?, cfgNormalization?,
/// cfgTruncation?}`.
pub(super) fn read(request: JsValue) -> Result<Request> {
    let fields: Fields = serde_wasm_bindgen::from_value(request)
        .map_err(|error| Error::Request(format!("the request cannot be read: {error}")))?;
    let base = Request::new(fields.prompt);
    Ok(Request {
        negative: fields.negative.into_iter().collect(),
        width: fields.width,
        height: fields.height,
        steps: fields.steps,
        seed: fields.seed.unwrap_or(base.seed),
        guidance: fields.guidance,
        cfg_normalization: fields.cfg_normalization.unwrap_or(base.cfg_normalization),
        cfg_truncation: fields.cfg_truncation.unwrap_or(base.cfg_truncation),
        ..base
    })
}

/// The wishes for a plan from a script, all of them optional.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wishes {
    offload: Option<String>,
    max_memory: Option<f64>,
    width: Option<usize>,
    height: Option<usize>,
}

/// Reads `{offload?, maxMemory?, width?, height?}`.
pub(super) fn residency(wishes: JsValue, model: &Model) -> Result<Residency> {
    let wishes: Wishes = serde_wasm_bindgen::from_value(wishes)
        .map_err(|error| Error::Request(format!("the options cannot be read: {error}")))?;
    let max_memory = match wishes.max_memory {
        None => None,
        Some(bytes) if bytes >= 1.0 && bytes <= LARGEST_NUMBER as f64 => Some(bytes as u64),
        Some(bytes) => return Err(Error::Request(format!("{bytes} is not a number of bytes for the GPU's memory"))),
    };
    let request = Request { width: wishes.width, height: wishes.height, ..Request::new("") };
    let expected = Expected::of(&request.check(model.config())?);
    let offload = wishes.offload.as_deref().map_or(Ok(Offload::Auto), str::parse)?;
    Ok(Residency { offload, max_memory, expected: Some(expected), ..Residency::default() })
}

/// A seed: a whole number, as a number or a bigint; `None` for `undefined`.
pub(super) fn seed(value: &JsValue) -> Result<Option<u64>> {
    serde_wasm_bindgen::from_value(value.clone())
        .map_err(|_| Error::Request(format!("a seed is a whole number from 0 to {}", u64::MAX)))
}

/// A seed as a number, or as a bigint if a number would not be exact.
pub(super) fn seed_to_js(seed: u64) -> JsValue {
    if seed <= LARGEST_NUMBER { (seed as f64).into() } else { js_sys::BigInt::from(seed).unchecked_into() }
}
