//! The change of one module: its difference, its scale, and DoRA's magnitudes.

use super::delta::{Delta, Side};
use super::file::{Group, Stored};
use super::keys::{Factor, Role};
use super::matrix::{Matrix, Product, shown};
use std::collections::BTreeMap;

/// The change that a file makes to one module.
#[derive(Debug)]
pub(super) struct Change {
    /// The change of the weight.
    pub(super) weight: Option<WeightChange>,
    /// The difference of the bias. Nothing but the strength scales it.
    pub(super) bias: Option<Delta>,
}

/// W + scale·ΔW, which DoRA gives the norms of `magnitude`.
#[derive(Debug)]
pub(super) struct WeightChange {
    pub(super) delta: Delta,
    /// The factor of ΔW in the file, without the strength.
    pub(super) scale: f32,
    pub(super) magnitude: Option<Matrix>,
}

impl Change {
    /// The change of a group. `implied` is the scale of a LoRA of a given rank that has no tensor
    /// of it.
    ///
    /// # Errors
    /// A sentence about tensors that are missing, exclude each other or do not fit together.
    pub(super) fn new(group: &Group, implied: impl Fn(usize) -> f32) -> Result<Self, String> {
        if let Some(double) = group.doubles.first() {
            return Err(format!("{double} repeats another tensor"));
        }
        if let Some(empty) = group.tensors.values().find(|stored| stored.tensor.is_empty()) {
            return Err(format!("{empty} is empty"));
        }
        let mut tensors = Tensors(group.tensors.clone());
        let bias = tensors.take(Role::BiasDiff).map(Matrix::new).transpose()?.map(Delta::Full);
        let [alpha, scale] = [Role::Alpha, Role::Scale].map(|role| tensors.take(role));
        let magnitude = tensors.take(Role::Magnitude).map(Matrix::new).transpose()?;
        let weight = match tensors.delta()? {
            Some(delta) => {
                let scale = scale_of(&delta, alpha.as_ref(), scale.as_ref(), implied)?;
                Some(WeightChange { delta, scale, magnitude })
            }
            None if magnitude.is_none() && bias.is_some() => None,
            None => return Err("there is no difference of the weight beside the other tensors".to_owned()),
        };
        match tensors.0.values().next() {
            Some(left) => Err(format!("{left} is of another method than the other tensors")),
            None => Ok(Self { weight, bias }),
        }
    }
}

/// The tensors of a group that no part of the change has taken.
struct Tensors(BTreeMap<Role, Stored>);

impl Tensors {
    fn take(&mut self, role: Role) -> Option<Stored> {
        self.0.remove(&role)
    }

    fn contains(&self, role: impl Fn(Factor) -> Role) -> bool {
        [Factor::Whole, Factor::A, Factor::B, Factor::Core].iter().any(|&factor| self.0.contains_key(&role(factor)))
    }

    fn delta(&mut self) -> Result<Option<Delta>, String> {
        if let Some(diff) = self.take(Role::Diff) {
            return Ok(Some(Delta::Full(Matrix::new(diff)?)));
        }
        let low_rank = (self.take(Role::Up), self.take(Role::Mid), self.take(Role::Down));
        match low_rank {
            (None, None, None) => {}
            (Some(up), mid, Some(down)) => {
                return Ok(Some(Delta::LowRank(Product::new(up, mid, down, false)?)));
            }
            (Some(up), ..) => return Err(format!("{up} has no lora_A (lora_down) beside it")),
            (_, _, Some(down)) => return Err(format!("{down} has no lora_B (lora_up) beside it")),
            (_, Some(mid), _) => return Err(format!("{mid} has neither lora_up nor lora_down beside it")),
        }
        if self.contains(Role::Hada1) || self.contains(Role::Hada2) {
            let [first, second] = [self.product(Role::Hada1)?, self.product(Role::Hada2)?];
            return match (first, second) {
                (Some(first), Some(second)) if first.size() == second.size() => {
                    Ok(Some(Delta::Hadamard(Box::new([first, second]))))
                }
                (Some(first), Some(second)) => {
                    Err(format!("the LoHa products differ: {} and {}", shown(first.size()), shown(second.size())))
                }
                _ => Err("expected both products of a LoHa, found one".to_owned()),
            };
        }
        if self.contains(Role::Kron1) || self.contains(Role::Kron2) {
            return match (self.side(Role::Kron1)?, self.side(Role::Kron2)?) {
                (Some(outer), Some(inner)) => Ok(Some(Delta::Kronecker(outer, inner))),
                _ => Err("expected both matrices of a LoKr, found one".to_owned()),
            };
        }
        Ok(None)
    }

    /// A product with an optional core: the Tucker form, whose left matrix is transposed.
    fn product(&mut self, role: impl Fn(Factor) -> Role) -> Result<Option<Product>, String> {
        let [a, core, b] = [Factor::A, Factor::Core, Factor::B].map(|factor| self.take(role(factor)));
        match (a, core, b) {
            (Some(a), core, Some(b)) => Product::new(a, core, b, true).map(Some),
            (None, None, None) => Ok(None),
            (Some(one), ..) | (_, Some(one), _) | (_, _, Some(one)) => {
                Err(format!("{one} has no other factor beside it"))
            }
        }
    }

    fn side(&mut self, role: impl Fn(Factor) -> Role) -> Result<Option<Side>, String> {
        match self.take(role(Factor::Whole)) {
            Some(whole) => Ok(Some(Side::Whole(Matrix::new(whole)?))),
            None => Ok(self.product(role)?.map(|product| Side::Decomposed(Box::new(product)))),
        }
    }
}

/// The scale of ΔW: 1 for a difference without a decomposition, `.scale` if the file has it
/// (stable-diffusion.cpp), alpha / rank if it has alpha, else the implied scale of a LoRA, or 1.
fn scale_of(
    delta: &Delta,
    alpha: Option<&Stored>,
    scale: Option<&Stored>,
    implied: impl Fn(usize) -> f32,
) -> Result<f32, String> {
    let ranks = delta.ranks();
    let Some(&rank) = ranks.first() else { return Ok(1.0) };
    if ranks.iter().any(|other| *other != rank) {
        return Err(format!("the ranks of the two matrices differ: {ranks:?}"));
    }
    match (scale, alpha) {
        (Some(scale), _) => single(scale),
        (None, Some(alpha)) => Ok(single(alpha)? / rank as f32),
        (None, None) if matches!(delta, Delta::LowRank(_)) => Ok(implied(rank)),
        (None, None) => Ok(1.0),
    }
}

/// The value of a tensor of one element.
fn single(stored: &Stored) -> Result<f32, String> {
    match stored.tensor.len() {
        1 => Ok(stored.tensor.to_f32()[0]),
        _ => Err(format!("expected a single value, found {stored}")),
    }
}
