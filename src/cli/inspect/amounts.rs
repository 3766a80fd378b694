//! Amounts of tensors, and numbers in words.

use serde::Serialize;
use std::collections::BTreeMap;
use zimage::weights::Amount;

/// The tensors of one element type.
#[derive(Default, Serialize)]
pub(super) struct Stored {
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

impl From<Amount> for Stored {
    fn from(Amount { tensors, parameters, bytes }: Amount) -> Self {
        Self { tensors, parameters, bytes }
    }
}

impl Stored {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Tensors by the name of their element type.
pub(super) type Types = BTreeMap<String, Stored>;

/// The types in a line: the name of a single one, or each with its amount.
pub(super) fn types_line(types: &Types) -> String {
    match types.len() {
        1 => types.keys().cloned().collect(),
        _ => {
            let lines: Vec<_> =
                types.iter().map(|(name, of)| format!("{name} {}", amount(of.parameters, of.bytes))).collect();
            lines.join("; ")
        }
    }
}

/// Parameters and bytes; only the bytes of scales, which are no parameters.
pub(super) fn amount(parameters: u64, bytes: u64) -> String {
    match parameters {
        0 => size(bytes),
        1 => format!("1 parameter, {}", size(bytes)),
        _ => format!("{} parameters, {}", grouped(parameters), size(bytes)),
    }
}

pub(super) fn plural(count: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count as u64), if count == 1 { "" } else { "s" })
}

/// `12,345,678`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the decimal units that disks and download pages use.
pub(super) fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (6_154_908_736, "6,154,908,736")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(plural(1, "file") + ", " + &plural(1521, "tensor"), "1 file, 1,521 tensors");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, text) in [(0, "0 bytes"), (1000, "1.0 kB"), (24_690_000, "24.7 MB"), (12_309_817_472, "12.31 GB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
