//! One file with weights, or the folder of one network: its kind, its sizes, and its use.

use super::amounts::{Stored, Types, amount, plural, size, types_line};
use super::shape::{TextEncoderShape, TransformerShape, VaeShape};
use crate::cli;
use crate::cli::kinds;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use zimage::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use zimage::weights::{self, Container, FileInfo, ModelFolder, Part, PartInfo};
use zimage::{Error, Result};

/// The document of `--json`. Sizes are in bytes.
#[derive(Serialize)]
struct Document {
    file: String,
    format: &'static str,
    /// The version of GGUF.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// `general.architecture` in the metadata of a GGUF file.
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    /// An identifier, such as `transformer` or `lora`.
    kind: &'static str,
    /// The kind in words.
    description: String,
    /// The flags of `generate` that take the file.
    flag: Option<&'static str>,
    /// The parts that drawing needs besides it.
    needs: Vec<&'static str>,
    /// The reason why a file of a supported kind cannot be used.
    problem: Option<String>,
    bytes: u64,
    files: usize,
    tensors: usize,
    parameters: u64,
    types: Types,
    /// The number of weights with scales beside them, by format.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    quantised: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parts: BTreeMap<&'static str, Described>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<Lora>,
    /// Whether a GGUF file has a tokenizer.
    tokenizer: bool,
}

/// A part of a model in the file.
#[derive(Serialize)]
struct Described {
    prefix: &'static str,
    #[serde(flatten)]
    amount: Stored,
    shape: Option<Shape>,
}

/// The sizes of a part.
#[derive(Serialize)]
#[serde(untagged)]
enum Shape {
    Transformer(TransformerShape),
    TextEncoder(TextEncoderShape),
    Vae(VaeShape),
}

#[derive(Serialize)]
struct Lora {
    /// Changed layers by method.
    layers: BTreeMap<&'static str, usize>,
    /// The smallest and the largest rank.
    ranks: Option<[usize; 2]>,
    /// Tensors of no known method.
    other_tensors: usize,
}

pub(super) fn run(path: &Path, json: bool) -> Result<()> {
    let document = pollster::block_on(Document::read(path))?;
    if json { cli::print_json(&document) } else { cli::print(&document.describe()) }
}

impl Document {
    async fn read(path: &Path) -> Result<Self> {
        let mut info = weights::inspect(path).await?;
        let mut parts = BTreeMap::new();
        for part in &info.parts {
            let shape = match Shape::read(path, part).await {
                Ok(shape) => shape,
                Err(error) => {
                    info.problem.get_or_insert(error);
                    None
                }
            };
            let described = Described { prefix: part.prefix, amount: part.amount.into(), shape };
            parts.insert(part.part.folder(), described);
        }
        let (flag, needs, all) = (kinds::flag_of(&info), info.needs(), info.amount());
        let FileInfo { files, bytes, container, kind, types, quantised, lora, has_tokenizer, problem, .. } = info;
        let (format, version, architecture) = match container {
            Container::Gguf { version, architecture } => ("gguf", Some(version), architecture),
            Container::Safetensors => ("safetensors", None, None),
        };
        Ok(Self {
            file: path.display().to_string(),
            format,
            version,
            architecture,
            kind: kind.id(),
            description: kind.name(),
            flag,
            needs,
            problem: problem.as_ref().map(Error::to_string),
            bytes,
            files,
            tensors: all.tensors,
            parameters: all.parameters,
            types: types.into_iter().map(|(name, amount)| (name, amount.into())).collect(),
            quantised,
            parts,
            lora: lora.map(|lora| Lora { layers: lora.layers, ranks: lora.ranks, other_tensors: lora.others }),
            tokenizer: has_tokenizer,
        })
    }

    /// The same for display.
    fn describe(&self) -> String {
        let format = match (self.version, &self.architecture) {
            (None, _) => "safetensors".to_owned(),
            (Some(version), None) => format!("GGUF version {version} without an architecture"),
            (Some(version), Some(architecture)) => format!("GGUF version {version}, architecture {architecture}"),
        };
        let files = if self.files > 1 { format!("{}, ", plural(self.files, "file")) } else { String::new() };
        let mut rows = vec![
            ("file", self.file.clone()),
            ("kind", self.description.clone()),
            ("format", format!("{format}, {files}{}", size(self.bytes))),
        ];
        let tensors = plural(self.tensors, "tensor");
        rows.push(("weights", format!("{}: {tensors}, {}", amount(self.parameters, self.total()), self.types_line())));
        if !self.quantised.is_empty() {
            let formats = self.quantised.iter().map(|(name, count)| format!("{} in {name}", plural(*count, "weight")));
            rows.push(("quantised", formats.collect::<Vec<_>>().join("; ")));
        }
        for (name, part) in &self.parts {
            let shape = part.shape.as_ref().map_or_else(|| "its sizes do not fit together".to_owned(), Shape::describe);
            rows.push((name, shape));
        }
        if let Some(lora) = &self.lora {
            rows.push(("changes", lora.describe()));
        }
        if self.tokenizer {
            rows.push(("tokenizer", "inside".to_owned()));
        }
        let needs = match self.needs.as_slice() {
            [] => String::new(),
            [need] => format!("; drawing also needs a {need}"),
            [first @ .., last] => format!("; drawing also needs a {} and a {last}", first.join(", a ")),
        };
        rows.push(("use", self.flag.map_or_else(|| "none".to_owned(), |flag| format!("{flag}{needs}"))));
        if let Some(problem) = &self.problem {
            rows.push(("problem", problem.clone()));
        }
        cli::table(&rows)
    }

    /// The bytes of all tensors.
    fn total(&self) -> u64 {
        self.types.values().map(Stored::bytes).fold(0, u64::saturating_add)
    }

    fn types_line(&self) -> String {
        types_line(&self.types)
    }
}

impl Shape {
    /// The sizes of a part whose tensors fit together.
    async fn read(path: &Path, part: &PartInfo) -> Result<Option<Self>> {
        let Some(config) = &part.config else { return Ok(None) };
        // The checks of a model's folder hold for every configuration.
        let file = format!("{}/config.json", part.part.folder());
        let config = serde_json::Value::from(config.clone()).to_string();
        let name = path.display().to_string();
        let folder = ModelFolder::in_memory(&name, &[]).with_files(&name, vec![(file, config.into())]);
        Ok(Some(match part.part {
            Part::Transformer => Shape::Transformer((&TransformerConfig::of(&folder).await?).into()),
            Part::TextEncoder => Shape::TextEncoder((&TextEncoderConfig::of(&folder).await?).into()),
            Part::Vae => Shape::Vae((&VaeConfig::of(&folder).await?).into()),
        }))
    }

    fn describe(&self) -> String {
        match self {
            Shape::Transformer(shape) => shape.describe(),
            Shape::TextEncoder(shape) => shape.describe(),
            Shape::Vae(shape) => shape.describe(),
        }
    }
}

impl Lora {
    fn describe(&self) -> String {
        let mut changes: Vec<String> =
            self.layers.iter().map(|(method, layers)| format!("{method} on {}", plural(*layers, "layer"))).collect();
        match self.ranks {
            Some([least, most]) if least == most => changes.push(format!("rank {least}")),
            Some([least, most]) => changes.push(format!("ranks {least} to {most}")),
            None => {}
        }
        if self.other_tensors > 0 {
            changes.push(format!("{} of no method that is read", plural(self.other_tensors, "tensor")));
        }
        changes.join(", ")
    }
}
