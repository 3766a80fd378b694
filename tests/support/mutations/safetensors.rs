//! Weight files: damage to the header's length and JSON, and to the types, shapes, offsets, names
//! and values of tensors.

use super::bytes::{self, Rng};
use super::{Allowed, json};
use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensors};
use half::{bf16, f16};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A damaged copy of `good`; `other` is another weight file of the model.
pub(super) fn damage(rng: &mut Rng, good: &[u8], other: &Path) -> Vec<u8> {
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let (header, data) = good[8..].split_at(length);
    match rng.below(16) {
        0 => bytes::damage(rng, good),
        1 => with_header(&bytes::damage(rng, header), data),
        2 => good[..rng.below(good.len())].to_vec(),
        3 => {
            let tweaks = [0, 1, 7, length as u64 - 1, length as u64 + 1, 100_000_000, 100_000_001, u64::MAX, 1 << 63];
            [&rng.pick(&tweaks).to_le_bytes(), &good[8..]].concat()
        }
        4 => with_header(&json::damage(rng, header), data),
        5 if rng.below(4) == 0 => fs::read(other).unwrap(),
        5 => [good, &vec![rng.next() as u8; 1 + rng.below(64)]].concat(),
        6..=8 => values(rng, good.to_vec(), 8 + length, header),
        _ => {
            let mut tree: Value = serde_json::from_slice(header).unwrap();
            for _ in 0..=rng.below(2) {
                entry(rng, &mut tree);
            }
            with_header(tree.to_string().as_bytes(), data)
        }
    }
}

fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Sets a field of a tensor's entry, unless an earlier edit replaced the entry.
fn set(entry: &mut Value, field: &str, value: Value) {
    if let Some(entry) = entry.as_object_mut() {
        entry.insert(field.to_owned(), value);
    }
}

/// The start (0) or the end (1) of a tensor's data.
fn offset(entry: &mut Value, side: usize) -> Option<&mut Value> {
    entry.get_mut("data_offsets")?.get_mut(side)
}

/// Changes one tensor's entry in the header.
fn entry(rng: &mut Rng, tree: &mut Value) {
    let all = tree.as_object_mut().unwrap();
    let names: Vec<String> = all.keys().filter(|name| *name != "__metadata__").cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = rng.pick(&names).clone();
    let another = rng.pick(&names).clone();
    let numbers = [0, 1, 2, 3, 4, 8, 64, 1 << 31, 1 << 32, i64::MAX as u64, u64::MAX];
    let number = *rng.pick(&numbers);
    let kinds = ["F32", "F16", "BF16", "F64", "I32", "U32", "I8", "BOOL", "F8_E4M3", "F4", "F6_E2M3", "C64", "f32", ""];
    match rng.below(11) {
        0 => drop(all.remove(&name)),
        1 => {
            let info = all.remove(&name).unwrap();
            let names = [
                format!("{name}x"),
                name.chars().skip(1).collect(),
                format!("model.{name}"),
                String::new(),
                "é\u{202e}\u{7f}".repeat(40),
            ];
            all.insert(rng.pick(&names).clone(), info);
        }
        2 => {
            let info = all[&another].clone();
            all.insert(name, info);
        }
        3 => set(&mut all[&name], "dtype", (*rng.pick(&kinds)).into()),
        4 => {
            let side = rng.below(2);
            if let Some(offset) = offset(&mut all[&name], side) {
                *offset = number.into();
            }
        }
        5 => {
            let by = *rng.pick(&[1, 4, 16]);
            for side in 0..2 {
                if let Some(offset) = offset(&mut all[&name], side) {
                    *offset = offset.as_u64().unwrap_or(0).wrapping_add(by).into();
                }
            }
        }
        6 | 7 => match all[&name].get_mut("shape").and_then(Value::as_array_mut) {
            Some(shape) if !shape.is_empty() => match rng.below(5) {
                0 => shape.reverse(),
                1 => shape.push(1.into()),
                2 => drop(shape.remove(0)),
                3 => shape.extend(vec![json!(1); 1 + rng.below(100_000)]),
                _ => {
                    let side = rng.below(shape.len());
                    shape[side] = number.into();
                }
            },
            _ => set(&mut all[&name], "shape", json!([number])),
        },
        8 => {
            let metadata =
                [json!({"format": "tf"}), json!({"a": {"b": [1]}}), json!(7), json!({"x": "y".repeat(100_000)})];
            all.insert("__metadata__".into(), rng.pick(&metadata).clone());
        }
        9 => {
            let info = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
            all.insert(format!("{name}.{}", number), info);
        }
        _ => json::edit(rng, tree),
    }
}

/// Overwrites values of a tensor; the file stays valid.
fn values(rng: &mut Rng, mut file: Vec<u8>, start: usize, header: &[u8]) -> Vec<u8> {
    let tree: Value = serde_json::from_slice(header).unwrap();
    let tensors: Vec<&Value> =
        tree.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__").map(|(_, info)| info).collect();
    let offset = |info: &Value, side: usize| start + info["data_offsets"][side].as_u64().unwrap() as usize;
    let info = *rng.pick(&tensors);
    let data = &mut file[offset(info, 0)..offset(info, 1)];
    let value: f32 =
        *rng.pick(&[f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e30, -1e9, 1e-42, 0.0]);
    for _ in 0..*rng.pick(&[1, 1, 3, 1000]) {
        let at = rng.below(data.len() / 4) * 4;
        data[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    file
}

/// True if text-to-image computes with this tensor.
fn needed(file: &str, name: &str) -> bool {
    match file.split('/').next() {
        Some("vae") => name.starts_with("decoder."),
        // The prompt's features precede the last block, which is the third one here.
        Some("text_encoder") => !["lm_head", "model.norm", "model.layers.2"].iter().any(|part| name.starts_with(part)),
        _ => true,
    }
}

/// True if every value of a tensor affects every picture: not so for embedding rows and pad tokens.
fn always_read(name: &str) -> bool {
    !name.contains("embed_tokens") && !name.contains("pad_token")
}

fn has_nan(tensor: &TensorView<'_>) -> bool {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => data.chunks_exact(4).any(|x| f32::from_le_bytes(x.try_into().unwrap()).is_nan()),
        Dtype::F16 => data.chunks_exact(2).any(|x| f16::from_le_bytes(x.try_into().unwrap()).is_nan()),
        Dtype::BF16 => data.chunks_exact(2).any(|x| bf16::from_le_bytes(x.try_into().unwrap()).is_nan()),
        _ => false,
    }
}

/// The allowed results for `bad` in place of `good`.
pub(super) fn allowed(file: &str, good: &[u8], bad: &[u8]) -> Allowed {
    let Ok(new) = SafeTensors::deserialize(bad) else { return Allowed::Refused };
    let mut allowed = Allowed::Same;
    for (name, old) in SafeTensors::deserialize(good).unwrap().tensors().iter().filter(|(name, _)| needed(file, name)) {
        let Ok(tensor) = new.tensor(name) else { return Allowed::Refused };
        let floats = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8_E4M3, Dtype::F8_E5M2];
        let floating = floats.contains(&tensor.dtype());
        if tensor.shape() != old.shape() || !floating || (always_read(name) && has_nan(&tensor)) {
            return Allowed::Refused;
        }
        if (tensor.dtype(), tensor.data()) != (old.dtype(), old.data()) {
            allowed = Allowed::Any;
        }
    }
    allowed
}
