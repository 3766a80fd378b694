//! The methods and ranks of a LoRA file, from the names and shapes of its tensors.

use super::keys::{self, Factor, Role};
use std::collections::{BTreeMap, BTreeSet};

/// The changes that a LoRA file makes, as its header tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoraInfo {
    /// The number of changed layers by method: `LoRA`, `LoHa`, `LoKr`, each perhaps `with DoRA`, or
    /// `difference`.
    pub layers: BTreeMap<&'static str, usize>,
    /// The smallest and the largest rank of a product; `None` without products.
    pub ranks: Option<[usize; 2]>,
    /// The number of tensors that belong to no method that is read.
    pub others: usize,
}

impl LoraInfo {
    /// Reads names and shapes.
    pub(in crate::weights) fn of<'t>(tensors: impl Iterator<Item = (&'t str, &'t [usize])>) -> Self {
        let mut layers: BTreeMap<String, BTreeSet<Role>> = BTreeMap::new();
        let mut info = Self::default();
        for (name, shape) in tensors {
            let Some((layer, role)) = keys::split(name) else {
                info.others += 1;
                continue;
            };
            layers.entry(layer).or_default().insert(role);
            // The factor that reads the input is `[rank, columns]` in every method.
            let reads = match role {
                Role::Down => true,
                Role::Hada1(factor) | Role::Hada2(factor) | Role::Kron1(factor) | Role::Kron2(factor) => {
                    factor == Factor::B
                }
                _ => false,
            };
            if let Some(&rank) = shape.first().filter(|_| reads) {
                let [least, most] = info.ranks.unwrap_or([rank; 2]);
                info.ranks = Some([least.min(rank), most.max(rank)]);
            }
        }
        for method in layers.values().filter_map(method) {
            *info.layers.entry(method).or_default() += 1;
        }
        info
    }
}

/// The method of a layer with tensors of these roles; `None` for a scale alone.
fn method(roles: &BTreeSet<Role>) -> Option<&'static str> {
    let has = |is: fn(&Role) -> bool| roles.iter().any(is);
    let is_decomposed = roles.contains(&Role::Magnitude);
    let pick = |plain, decomposed| Some(if is_decomposed { decomposed } else { plain });
    if has(|role| matches!(role, Role::Kron1(_) | Role::Kron2(_))) {
        pick("LoKr", "LoKr with DoRA")
    } else if has(|role| matches!(role, Role::Hada1(_) | Role::Hada2(_))) {
        pick("LoHa", "LoHa with DoRA")
    } else if has(|role| matches!(role, Role::Down | Role::Up | Role::Mid)) {
        pick("LoRA", "LoRA with DoRA")
    } else if has(|role| matches!(role, Role::Diff | Role::BiasDiff)) {
        Some("difference")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(tensors: &[(&str, &[usize])]) -> LoraInfo {
        LoraInfo::of(tensors.iter().copied())
    }

    #[test]
    fn layers_are_counted_by_method() {
        let found = info(&[
            ("a.lora_A.weight", &[16, 64]),
            ("a.lora_B.weight", &[64, 16]),
            ("b.lora_down.weight", &[4, 64]),
            ("b.lora_up.weight", &[64, 4]),
            ("b.alpha", &[]),
            ("b.dora_scale", &[64, 1]),
            ("c.lokr_w1", &[8, 8]),
            ("c.lokr_w2_a", &[8, 2]),
            ("c.lokr_w2_b", &[2, 8]),
            ("d.hada_w1_a", &[64, 5]),
            ("d.hada_w1_b", &[5, 64]),
            ("e.diff", &[64]),
            ("f.alpha", &[]),
            ("g.oft_blocks", &[4, 4]),
        ]);
        let layers = [("LoRA", 1), ("LoRA with DoRA", 1), ("LoKr", 1), ("LoHa", 1), ("difference", 1)];
        assert_eq!(found, LoraInfo { layers: BTreeMap::from(layers), ranks: Some([2, 16]), others: 1 });
    }

    #[test]
    fn full_factors_have_no_rank() {
        let found = info(&[("a.lokr_w1", &[8, 8]), ("a.lokr_w2", &[8, 8])]);
        assert_eq!(found, LoraInfo { layers: BTreeMap::from([("LoKr", 1)]), ranks: None, others: 0 });
    }
}
