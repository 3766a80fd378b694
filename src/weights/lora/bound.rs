//! A LoRA that has been held against a model, and a stack of them as a transform of its weights.

use super::super::identify::{Kind, LoraFor};
use super::super::transform::Transform;
use super::apply::{Changes, Part};
use super::change::Change;
use super::delta::Delta;
use super::matrix::{self, Matrix, Size, shown};
use super::report::{Report, counted};
use super::targets::{Module, Targets};
use super::{Lora, Unused};
use crate::error::{Error, Result, excerpt};
use crate::future::BoxFuture;
use crate::reserve;
use crate::tensor::{RowChange, Weight};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows that decide whether two layers of a file make the same change.
const COMPARED_ROWS: usize = 16;
/// The largest relative difference of changes that count as the same: the rounding of BF16.
const SAME: f64 = 0.02;

/// A LoRA that fits a model, with its strength.
#[derive(Debug)]
pub struct BoundLora {
    path: PathBuf,
    sha256: String,
    strength: f32,
    report: Report,
    claims: HashMap<String, Claim>,
}

/// The change of one weight of the model.
#[derive(Debug, Clone)]
struct Claim {
    change: Arc<Change>,
    /// The layer's name in the file.
    layer: String,
    of_bias: bool,
    /// The row of the difference that is the weight's first.
    first: usize,
    size: Size,
}

impl Claim {
    fn part(&self, strength: f32) -> Part<'_> {
        match (&self.change.weight, &self.change.bias) {
            (Some(weight), _) if !self.of_bias => Part {
                delta: &weight.delta,
                first: self.first,
                scale: weight.scale,
                strength,
                magnitude: weight.magnitude.as_ref(),
            },
            (_, Some(bias)) => Part { delta: bias, first: self.first, scale: 1.0, strength, magnitude: None },
            _ => unreachable!("a claim is of a change that exists"),
        }
    }

    /// True if `other` makes the same change, up to the rounding of its elements.
    fn repeats(&self, other: &Self) -> Result<bool> {
        let (rows, columns) = self.size;
        let values = |claim: &Self| {
            let part = claim.part(1.0);
            let mut values = reserve::zeros(rows.min(COMPARED_ROWS) * columns, "a LoRA")?;
            part.delta.open()?.add(part.first, &mut values, columns, part.scale)?;
            Ok((values, part.magnitude.is_some()))
        };
        let ((one, one_decomposed), (two, two_decomposed)) = (values(self)?, values(other)?);
        let square = |value: f32| f64::from(value) * f64::from(value);
        let difference: f64 = one.iter().zip(&two).map(|(one, two)| square(one - two)).sum();
        let size: f64 = one.iter().map(|&value| square(value)).sum();
        Ok(!one_decomposed && !two_decomposed && difference <= SAME * SAME * size)
    }
}

impl Lora {
    /// Holds the file against the weights of a model: every tensor must belong to one of them and
    /// fit its shape. The model is changed by [`LoraStack`].
    ///
    /// # Errors
    /// [`Error::File`] that lists the tensors that do not fit, unless they are allowed, or if none
    /// fits, which says if the file is for another model; [`Error::Request`] for a strength that is
    /// infinite or NaN.
    pub fn bind(&self, targets: &Targets, strength: f32, unused: Unused) -> Result<BoundLora> {
        if !strength.is_finite() {
            return Err(Error::Request(format!("the strength of a LoRA must be a finite number, found {strength}")));
        }
        let mut report = Report {
            file: self.name().to_owned(),
            applied: 0,
            tensors: self.tensors,
            layers: 0,
            repeated: 0,
            strength,
            unused: Vec::new(),
        };
        let mut claims = HashMap::new();
        for layer in &self.layers {
            let found = match &layer.change {
                Ok(change) => claims_of(&layer.name, change, targets),
                Err(problem) => Err(problem.clone()),
            };
            match found.map_or_else(|problem| Ok(Err(problem)), |found| add(&mut claims, found))? {
                Ok(0) => report.repeated += layer.tensors,
                Ok(_) => {
                    report.applied += layer.tensors;
                    report.layers += 1;
                }
                Err(problem) => {
                    let tensors = counted(layer.tensors, "tensor");
                    report.unused.push(format!("{} ({tensors}): {problem}", excerpt(&layer.name)));
                }
            }
        }
        let stray = self.stray.iter().map(|(name, reason)| format!("{}: {reason}", excerpt(name)));
        report.unused.extend(stray);
        if claims.is_empty() && matches!(self.kind, Kind::Lora(LoraFor::Other(_))) {
            return Err(Error::file(&self.path, self.kind.explain()));
        }
        match report.complaint() {
            Some(complaint) if unused == Unused::Refuse || claims.is_empty() => Err(Error::file(&self.path, complaint)),
            _ => Ok(BoundLora { path: self.path.clone(), sha256: self.sha256().to_owned(), strength, report, claims }),
        }
    }
}

/// The weights that a layer changes, with their names.
///
/// # Errors
/// A sentence about the first that is absent or has another shape.
fn claims_of(layer: &str, change: &Arc<Change>, targets: &Targets) -> Result<Vec<(String, Claim)>, String> {
    let modules = match targets.module(layer) {
        Module::Found(modules) => modules,
        Module::Ambiguous => return Err("the name fits several layers of the model".to_owned()),
        Module::Absent => return Err("the model has no such layer".to_owned()),
    };
    let mut claims = Vec::new();
    let weight = change.weight.as_ref();
    let deltas = [(weight.map(|weight| &weight.delta), false), (change.bias.as_ref(), true)];
    for (delta, of_bias) in deltas.into_iter().filter_map(|(delta, of_bias)| Some((delta?, of_bias))) {
        let mut first = 0;
        let mut columns = 0;
        for module in modules {
            let weight = if of_bias { targets.bias(module) } else { targets.weight(module) };
            let kind = if of_bias { "bias" } else { "weight" };
            let (name, shape) = weight.ok_or_else(|| format!("the model's {module} has no {kind}"))?;
            let size = matrix::size(shape).ok_or_else(|| format!("the model's {name} is no matrix"))?;
            if first > 0 && size.1 != columns {
                return Err(format!("the model's {} differ in their columns", modules.join(", ")));
            }
            let claim = Claim { change: change.clone(), layer: layer.to_owned(), of_bias, first, size };
            claims.push((name, claim));
            // The sizes are those of a model in memory, so their sum does not overflow.
            first += size.0;
            columns = size.1;
        }
        fits(delta, (first, columns), modules)?;
    }
    if let Some(magnitude) = weight.and_then(|weight| weight.magnitude.as_ref()) {
        fits_magnitude(magnitude, &claims)?;
    }
    Ok(claims)
}

fn fits(delta: &Delta, expected: Size, modules: &[String]) -> Result<(), String> {
    match delta.size() {
        Some(size) if size == expected => Ok(()),
        found => {
            let found = found.map_or("larger than memory".to_owned(), shown);
            let modules = modules.join(", ");
            Err(format!("the change is {found} and the model's {modules} {}", shown(expected)))
        }
    }
}

fn fits_magnitude(magnitude: &Matrix, claims: &[(String, Claim)]) -> Result<(), String> {
    let weights = claims.iter().filter(|(_, claim)| !claim.of_bias);
    let (count, rows) = weights.clone().fold((0, 0), |(count, rows), (_, claim)| (count + 1, rows + claim.size.0));
    let columns = weights.map(|(_, claim)| claim.size.1).next().unwrap_or_default();
    if magnitude.size == (rows, 1) || magnitude.size == (1, columns) && count == 1 {
        return Ok(());
    }
    let stored = &magnitude.stored;
    Err(if magnitude.size == (1, columns) {
        format!("{stored} has the norms of columns, which the separate layers of a fused one do not have")
    } else {
        format!("expected norms of {rows} rows or {columns} columns, found {stored}")
    })
}

/// Adds claims that no other layer has made, and returns their number.
///
/// # Errors
/// A sentence about another layer that changes the same weight differently.
fn add(all: &mut HashMap<String, Claim>, new: Vec<(String, Claim)>) -> Result<Result<usize, String>> {
    let mut added = Vec::new();
    for (name, claim) in new {
        match all.get(&name) {
            None => added.push((name, claim)),
            Some(other) if other.repeats(&claim)? => {}
            Some(other) => return Ok(Err(format!("{} changes {name} too, and differently", excerpt(&other.layer)))),
        }
    }
    let count = added.len();
    all.extend(added);
    Ok(Ok(count))
}

impl BoundLora {
    /// The count of the tensors that change the model.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The file's name without its extension, for the metadata of a picture.
    pub fn name(&self) -> &str {
        self.report.file.rsplit_once('.').map_or(&self.report.file, |(stem, _)| stem)
    }

    /// The strength.
    pub fn strength(&self) -> f32 {
        self.strength
    }

    /// The SHA-256 of the file in hexadecimal; its first ten digits are the AutoV2 hash of web
    /// interfaces and of Civitai.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// LoRAs that change a model in their order.
#[derive(Debug, Default)]
pub struct LoraStack(Vec<BoundLora>);

impl LoraStack {
    /// A stack of LoRAs that were bound to the same model.
    pub fn new(loras: Vec<BoundLora>) -> Self {
        Self(loras)
    }

    /// The LoRAs in their order.
    pub fn loras(&self) -> &[BoundLora] {
        &self.0
    }

    fn claims(&self, name: &str) -> impl Iterator<Item = (&BoundLora, &Claim)> {
        let active = self.0.iter().filter(|lora| lora.strength != 0.0);
        active.filter_map(|lora| Some((lora, lora.claims.get(name)?)))
    }
}

impl Transform for LoraStack {
    fn changes(&self, name: &str) -> bool {
        self.claims(name).next().is_some()
    }

    fn open<'f, 't: 'f>(&'t self, name: &'f str, weight: &'f Weight<'_>) -> BoxFuture<'f, Box<dyn RowChange + 't>> {
        Box::pin(async move {
            let claims: Vec<_> = self.claims(name).collect();
            let (last, claim) = *claims.last().ok_or_else(|| Error::internal("no LoRA changes this weight"))?;
            let fault = |expected: String, found: String| Error::Tensor {
                path: last.path.clone(),
                tensor: excerpt(&claim.layer),
                expected,
                found,
            };
            // A model may be replaced between `bind` and the reading of its weights.
            if claims.iter().any(|(_, claim)| Some(claim.size) != matrix::size(weight.shape())) {
                let expected = format!("a model with {name} of {}", shown(claim.size));
                return Err(fault(expected, format!("{:?}", weight.shape())));
            }
            let expected = format!("a change that leaves {name} finite");
            let infinite = move || fault(expected.clone(), "values that add up to infinity".to_owned());
            let parts = claims.iter().map(|(lora, claim)| claim.part(lora.strength));
            let changes = Changes::open(weight, claim.size, parts, infinite).await?;
            Ok(Box::new(changes) as Box<dyn RowChange>)
        })
    }
}
