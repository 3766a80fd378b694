//! A model's files as named tensors.
//!
//! [`ModelFolder`] knows where the bytes come from (a folder on disk, the binary itself, or
//! [`RemoteFiles`]), [`Tensors`] knows their names, shapes and types. Nothing here knows a device.
//! Every file counts as hostile until it is checked: a wrong one is an error that names the file,
//! the tensor, what was expected and what was found.

mod convert;
mod embedded;
mod file;
mod finite;
mod folder;
mod header;
mod index;
pub(crate) mod json;
mod names;
mod open;
mod random;
mod remote;
mod sigbus;
mod tensors;
mod transform;

pub use crate::future::BoxFuture;
pub(crate) use folder::LONGEST_CONFIG;
pub use folder::ModelFolder;
pub use random::RandomTensors;
pub use remote::RemoteFiles;
/// The element types that a safetensors file can name. [`Tensors::take`] reads only floating ones
/// of 8 to 64 bits.
pub use safetensors::Dtype as StoredType;
pub use sigbus::explain_sigbus;
pub use tensors::{Listing, OnRead, Tensors};
pub use transform::Transform;

/// Text from a file made fit for a one-line message: control characters escaped, long text cut. A
/// hostile name would otherwise fill the terminal.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 160;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("layers.0.weight"), "layers.0.weight");
        assert_eq!(excerpt("a\n\u{1b}[31mb"), "a\\n\\u{1b}[31mb");
        let long = excerpt(&"é".repeat(1_000_000));
        assert_eq!(long.chars().count(), 161);
        assert!(long.ends_with('…'));
    }
}
