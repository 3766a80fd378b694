//! Quantised weights of safetensors files: the tensors beside a weight that say how it is stored.
//!
//! | suffix | meaning |
//! | --- | --- |
//! | `weight_scale`, `scale_weight` | scales: of the matrix, of its rows, or of its blocks |
//! | `weight_scale_2` | the factor of NVFP4's block scales |
//! | `comfy_quant` | U8: JSON such as `{"format": "nvfp4"}` |
//! | `input_scale`, `scale_input` | a scale of the activations, which a dequantised weight does not need |
//!
//! The JSON may also be in the file's metadata, under `_quantization_metadata`. Source: ComfyUI's
//! `comfy/quant_ops.py` and `comfy/utils.py`, which also read the old names `scale_weight` and
//! `scale_input`.

use super::file::ModelFile;
use super::names::Rows;
use super::stored::{Header, Stored, StoredType};
use crate::error::{Error, Result, excerpt};
use crate::tensor::{Format, Mismatch, Scaled, Scales, Storage};
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

const WEIGHT: &str = "weight";
const SCALE: &str = "weight_scale";
const OLD_SCALE: &str = "scale_weight";
const FACTOR: &str = "weight_scale_2";
const CONFIG: &str = "comfy_quant";

/// The suffixes, and the name under which each is kept; `None` for one that nothing needs.
const SUFFIXES: [(&str, Option<&str>); 8] = [
    (SCALE, Some(SCALE)),
    (OLD_SCALE, Some(SCALE)),
    (FACTOR, Some(FACTOR)),
    (CONFIG, Some(CONFIG)),
    ("input_scale", None),
    ("scale_input", None),
    ("pre_quant_scale", Some("pre_quant_scale")),
    ("weight_zero_point", Some("weight_zero_point")),
];

/// Maximum bytes of a layer's JSON; the published ones have less than 100.
const LONGEST_CONFIG: u64 = 1 << 12;
/// The rotated columns of INT8 weights whose JSON does not say how many.
const ROTATION: u64 = 256;

/// The tensors beside a weight.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    /// The stored weight.
    weight: Stored,
    tensors: BTreeMap<&'static str, Stored>,
    /// The layer's entry in the file's metadata.
    config: Option<Value>,
    /// True if the scale has its old name.
    is_old: bool,
}

impl Beside {
    /// True if the scales, if there are any, are of the tensor or of its rows, not of blocks.
    pub(super) fn has_float_scales(&self) -> bool {
        let is_float = |format| matches!(format, Format::F32 | Format::F16 | Format::Bf16);
        self.tensors.get(SCALE).is_none_or(|scale| scale.dtype.format().is_some_and(is_float))
    }

    /// The number of columns that share a scale, or `None` without block scales. A file may pad
    /// each row to a multiple of it.
    pub(super) fn scaled_columns(&self) -> Option<usize> {
        match (self.is_packed(), self.has_float_scales()) {
            (true, _) => Some(16),
            (false, false) => Some(32),
            (false, true) => None,
        }
    }

    fn new(weight: &Stored) -> Self {
        Self { weight: weight.clone(), tensors: BTreeMap::new(), config: None, is_old: false }
    }
}

/// The weights of a file that have tensors beside them, by the weights' names, and the names of
/// all tensors beside weights.
pub(super) fn quantised(header: &Header) -> (BTreeMap<&str, Beside>, BTreeSet<&str>) {
    let configs = configs(header);
    let mut weights: BTreeMap<&str, Beside> = BTreeMap::new();
    let mut beside = BTreeSet::new();
    let layers = header.tensors.keys().filter_map(|name| Some((name, name.rsplit_once('.')?)));
    for (name, (layer, suffix)) in layers.clone() {
        let Some((_, kept)) = SUFFIXES.iter().find(|(known, _)| *known == suffix) else { continue };
        let Some((weight, stored)) = header.tensors.get_key_value(&format!("{layer}.{WEIGHT}")) else { continue };
        beside.insert(name.as_str());
        if let Some(kept) = kept {
            let beside = weights.entry(weight).or_insert_with(|| Beside::new(stored));
            beside.is_old |= suffix == OLD_SCALE;
            beside.tensors.insert(kept, header.tensors[name].clone());
        }
    }
    for (name, (layer, suffix)) in layers {
        if suffix == WEIGHT
            && let Some(config) = config(&configs, layer)
        {
            weights.entry(name).or_insert_with(|| Beside::new(&header.tensors[name])).config = Some(config.clone());
        }
    }
    (weights, beside)
}

/// The layers in the file's metadata.
fn configs(header: &Header) -> Map<String, Value> {
    let text = header.metadata.get("_quantization_metadata").and_then(Value::as_str);
    let json = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    match json.and_then(|mut json| json.get_mut("layers").map(Value::take)) {
        Some(Value::Object(layers)) => layers,
        _ => Map::new(),
    }
}

/// The entry of a layer. Some files name it without the prefix of the tensors.
fn config<'c>(configs: &'c Map<String, Value>, layer: &str) -> Option<&'c Value> {
    let bare = layer.strip_prefix("model.diffusion_model.").or_else(|| layer.strip_prefix("diffusion_model."));
    configs.get(layer).or_else(|| configs.get(bare?))
}

impl Beside {
    /// The logical shape of the weight, with padding: two elements a byte in NVFP4.
    pub(super) fn shape(&self) -> Vec<usize> {
        let mut shape = self.weight.shape.clone();
        if self.is_packed()
            && let Some(columns) = shape.last_mut()
        {
            *columns = columns.saturating_mul(2);
        }
        shape
    }

    /// The format of the codes.
    pub(super) fn codes(&self) -> Format {
        match self.weight.dtype {
            StoredType::Format(format) => format,
            _ if self.is_packed() => Format::Nvfp4,
            _ => Format::I8,
        }
    }

    /// True for bytes of two elements each.
    fn is_packed(&self) -> bool {
        self.weight.dtype == StoredType::Other(Dtype::U8)
    }

    /// The name of the weight's format, for display: that of ComfyUI, or `fp8_scaled` for its old
    /// files. Of the scales only their types are read.
    ///
    /// # Errors
    /// [`Error::Tensor`] for formats that are not read; read errors.
    pub(super) async fn format(&self, file: &ModelFile, name: &str) -> Result<String> {
        let (kind, config) = self.kind(file, name).await?;
        let is_rotated = config.is_some_and(|config| config.get("convrot") == Some(&Value::Bool(true)));
        Ok(match (kind, self.weight.dtype) {
            (Kind::Float, _) if self.is_old => "fp8_scaled".to_owned(),
            (Kind::Float, StoredType::Format(Format::F8E4m3)) => "float8_e4m3fn".to_owned(),
            (Kind::Float, StoredType::Format(Format::F8E5m2)) => "float8_e5m2".to_owned(),
            (Kind::Float, dtype) => format!("{dtype} with scales"),
            (Kind::Mxfp8, _) => "mxfp8".to_owned(),
            (Kind::Nvfp4, _) => "nvfp4".to_owned(),
            (Kind::Int8, _) if is_rotated => "int8_tensorwise with convrot".to_owned(),
            (Kind::Int8, _) => "int8_tensorwise".to_owned(),
        })
    }

    /// The meanings of the codes and scales, and the layer's JSON.
    async fn kind(&self, file: &ModelFile, name: &str) -> Result<(Kind, Option<Value>)> {
        let fault = |expected: String, found: String| Err(self.fault(file, name, expected, found));
        let config = self.read_config(file, name).await?;
        let named = config.as_ref().and_then(|config| config.get("format").or(Some(config))?.as_str());
        if let Some(other) =
            ["pre_quant_scale", "weight_zero_point"].iter().find(|name| self.tensors.contains_key(*name))
        {
            return fault("a weight with scales only".into(), format!("one with {other}, which is not supported"));
        }
        let dtype = self.weight.dtype;
        let scale = self.tensors.get(SCALE);
        let blocks = scale.is_some_and(|scale| matches!(scale.dtype, StoredType::Other(Dtype::U8 | Dtype::F8_E8M0)));
        let kind = match (named, dtype) {
            (Some("float8_e4m3fn"), StoredType::Format(Format::F8E4m3)) => Kind::Float,
            (Some("float8_e5m2"), StoredType::Format(Format::F8E5m2)) => Kind::Float,
            (Some("mxfp8"), StoredType::Format(Format::F8E4m3)) => Kind::Mxfp8,
            (Some("nvfp4"), StoredType::Other(Dtype::U8)) => Kind::Nvfp4,
            (Some("int8_tensorwise"), StoredType::Other(Dtype::I8)) => Kind::Int8,
            (None, StoredType::Format(Format::F8E4m3)) if blocks => Kind::Mxfp8,
            (None, StoredType::Format(_)) => Kind::Float,
            (None, StoredType::Other(Dtype::U8)) if self.tensors.contains_key(FACTOR) => Kind::Nvfp4,
            (None, StoredType::Other(Dtype::I8)) => Kind::Int8,
            (Some(named), _) => {
                let expected = "float8_e4m3fn, float8_e5m2, mxfp8, nvfp4 or int8_tensorwise in that type";
                return fault(expected.into(), format!("{} in {dtype}", excerpt(named)));
            }
            (None, _) => return fault("a format that is read".into(), format!("{dtype} {:?}", self.weight.shape)),
        };
        Ok((kind, config))
    }

    /// The storage of the weight `name` of `shape` in `file`, and its offsets there; `rows` selects
    /// the weight in the stored matrix.
    ///
    /// # Errors
    /// [`Error::Tensor`] for tensors that do not fit together and for formats that are not read;
    /// read errors.
    pub(super) async fn storage(
        &self,
        file: &ModelFile,
        name: &str,
        shape: &[usize],
        rows: Rows,
    ) -> Result<(Storage, Range<u64>)> {
        let fault = |expected: String, found: String| Err(self.fault(file, name, expected, found));
        let (kind, config) = self.kind(file, name).await?;
        let (dtype, scale) = (self.weight.dtype, self.tensors.get(SCALE));
        let format = match kind {
            Kind::Nvfp4 => Format::Nvfp4,
            Kind::Int8 => Format::I8,
            Kind::Float | Kind::Mxfp8 => dtype.format().unwrap_or(Format::F8E4m3),
        };
        let required = || scale.ok_or_else(|| self.fault(file, name, format!("a {SCALE} beside it"), "none".into()));
        let scales = match kind {
            Kind::Float => match scale {
                Some(scale) => self.float_scales(file, name, scale).await?,
                None => Scales::None,
            },
            Kind::Int8 => self.float_scales(file, name, required()?).await?,
            Kind::Mxfp8 => Scales::Mxfp8(file.read(required()?.range.clone()).await?),
            Kind::Nvfp4 => {
                let Some(factor) = self.tensors.get(FACTOR) else {
                    return fault(format!("a {FACTOR} beside it"), "none".into());
                };
                let Scales::Tensor(tensor) = self.float_scales(file, name, factor).await? else {
                    return fault(format!("one {FACTOR}"), format!("{:?}", factor.shape));
                };
                Scales::Nvfp4 { blocks: file.read(required()?.range.clone()).await?, tensor }
            }
        };
        let rotation = match (kind, &config) {
            (Kind::Int8, Some(config)) if config.get("convrot") == Some(&Value::Bool(true)) => {
                let group = config.get("convrot_groupsize").map_or(Some(ROTATION), Value::as_u64);
                let group = group.and_then(|group| usize::try_from(group).ok());
                let Some(group) = group else {
                    return fault("a number for convrot_groupsize".into(), excerpt(&config.to_string()));
                };
                Some(group)
            }
            _ => None,
        };
        // A selection of rows has its scales among those of the whole matrix.
        let columns = |shape: &[usize]| shape.iter().skip(1).product::<usize>();
        let count = shape.first().copied().unwrap_or(1);
        let (whole, first_row) = match rows {
            Rows::All => (count, 0),
            Rows::Third(third) => (count.saturating_mul(3), third * count),
        };
        let stored = [self.weight.shape.first().copied().unwrap_or(1), columns(&self.shape())];
        if matches!((&scales, rotation), (Scales::None, None)) && stored == [whole, columns(shape)] {
            let storage = Storage::Plain(format);
            return Ok((storage.clone(), self.place(&storage, first_row, count, stored[1])?));
        }
        let matrix = Scaled::new(format, [whole, columns(shape)], stored, scales, rotation);
        let matrix = matrix.map_err(|Mismatch { expected, found }| self.fault(file, name, expected, found))?;
        let storage = Storage::Scaled { matrix: Arc::new(matrix), first_row };
        let place = self.place(&storage, first_row, count, stored[1])?;
        Ok((storage, place))
    }

    fn fault(&self, file: &ModelFile, name: &str, expected: String, found: String) -> Error {
        Error::Tensor { path: file.path.clone(), tensor: excerpt(name), expected, found }
    }

    /// The offsets of rows in the file.
    fn place(&self, storage: &Storage, first: usize, count: usize, columns: usize) -> Result<Range<u64>> {
        let start = self.weight.range.start;
        let ends = storage.bytes(first, columns).zip(storage.bytes(first.saturating_add(count), columns));
        let place = ends.map(|(from, to)| start + from..start + to).filter(|place| place.end <= self.weight.range.end);
        place.ok_or_else(|| Error::internal("rows of a quantised weight are not in its file"))
    }

    /// The JSON of the layer whose weight is `name`.
    async fn read_config(&self, file: &ModelFile, name: &str) -> Result<Option<Value>> {
        let Some(stored) = self.tensors.get(CONFIG) else { return Ok(self.config.clone()) };
        let name = format!("{}.{CONFIG}", name.strip_suffix(".weight").unwrap_or(name));
        let range = stored.range.clone();
        if range.end - range.start > LONGEST_CONFIG {
            let found = format!("{} bytes", range.end - range.start);
            return Err(self.fault(file, &name, format!("JSON of at most {LONGEST_CONFIG} bytes"), found));
        }
        let bytes = file.read(range).await?;
        // Some writers pad the text.
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        match serde_json::from_slice(text) {
            Ok(json) => Ok(Some(json)),
            Err(_) => {
                let found = excerpt(&String::from_utf8_lossy(&bytes));
                Err(self.fault(file, &name, "JSON with a format".into(), found))
            }
        }
    }

    /// Scales in a floating type: one, or one a row.
    async fn float_scales(&self, file: &ModelFile, name: &str, stored: &Stored) -> Result<Scales> {
        let wrong = || {
            let found = format!("{} {:?}", stored.dtype, stored.shape);
            self.fault(file, name, format!("a {SCALE} in F32, one or one a row"), found)
        };
        let format = stored.dtype.format().filter(|format| format.block().elements == 1).ok_or_else(wrong)?;
        let rows = self.weight.shape.first().copied().unwrap_or(1);
        let (count, is_one) = match stored.shape.as_slice() {
            [] | [1] | [1, 1] => (1, true),
            [n] | [n, 1] if *n == rows => (rows, false),
            _ => return Err(wrong()),
        };
        let bytes = file.read(stored.range.clone()).await?;
        if format.bytes(count) != Some(bytes.len()) {
            return Err(wrong());
        }
        let mut values = vec![0.0; count];
        format.dequantize(&bytes, &mut values);
        Ok(if is_one { Scales::Tensor(values[0]) } else { Scales::Rows(values) })
    }
}

/// The meanings of a weight's codes and of the scales beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Mxfp8,
    Nvfp4,
    Int8,
}
