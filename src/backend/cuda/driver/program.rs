//! Kernels as text: which files make a program, the constants in front of them, and what their entries take.
//!
//! A *program* is a few files of `kernels/` joined behind `#define`s, compiled for the device at hand. Sizes that a loop
//! is unrolled by, and choices that a thread should not make, are constants; everything else is an argument. The
//! arguments of a launch are held against the parameters that the text declares, because nothing else would.

use crate::tensor::DType;
use std::fmt::Write;

/// A file in `kernels/`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File {
    pub name: &'static str,
    pub text: &'static str,
}

/// The file `kernels/<name>`.
macro_rules! kernel {
    ($name:literal) => {
        $crate::backend::cuda::driver::program::File {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $name)),
        }
    };
}
pub(crate) use kernel;

/// One text with all its choices made.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The verb, or the part of it.
    pub name: &'static str,
    files: Vec<File>,
    constants: Vec<(&'static str, usize)>,
}

/// What a kernel takes at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// A tensor of these elements, or of any; changed when `mutable`.
    Tensor {
        elements: Option<DType>,
        mutable: bool,
    },
    /// What Hopper's copy engine knows of a tensor.
    Map,
    U32,
    F32,
}

impl Program {
    /// The program of `files`, which every program has two more in front of.
    pub(crate) fn new(name: &'static str, files: &[File]) -> Self {
        let files = [&[kernel!("common/mma.cuh"), kernel!("common/vec.cuh")], files].concat();
        Self { name, files, constants: Vec::new() }
    }

    /// Puts `#define name value` in front.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<usize>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// What tells this program from all others: its files and constants in words.
    pub(crate) fn label(&self) -> String {
        let mut label = self.name.to_owned();
        for file in self.files.iter().skip(2) {
            let _ = write!(label, " {}", file.name);
        }
        for (name, value) in &self.constants {
            let _ = write!(label, " {name}={value}");
        }
        label
    }

    /// The text.
    pub(crate) fn source(&self) -> String {
        let mut source = String::new();
        for (name, value) in &self.constants {
            let _ = writeln!(source, "#define {name} {value}");
        }
        for file in &self.files {
            source.push_str(file.text);
        }
        source
    }

    /// Whether its kernels wait by themselves for what was called before them, so that they may start while it ends.
    pub(crate) fn waits(&self) -> bool {
        self.files.iter().any(|file| file.text.contains("wait_for_previous();"))
    }

    /// What the kernel `entry` takes, read from its declaration; `None` when there is no such kernel.
    pub(crate) fn parameters(&self, entry: &str) -> Option<Vec<Parameter>> {
        let declared = |file: &File| {
            file.text.split("extern \"C\" __global__").skip(1).find_map(|text| {
                let head = text.split('{').next()?;
                let rest = head.split_once(&format!(" {entry}("))?.1;
                rest.rsplit_once(')')?.0.split(',').map(parameter).collect()
            })
        };
        self.files.iter().find_map(declared)
    }
}

/// A declaration such as `const bf16 *x` or `unsigned n`.
fn parameter(text: &str) -> Option<Parameter> {
    let declared = text.trim();
    if declared.starts_with("const __grid_constant__ TensorMap ") {
        return Some(Parameter::Map);
    }
    let Some((pointee, _)) = declared.split_once('*') else {
        return match declared.split_whitespace().next()? {
            "unsigned" => Some(Parameter::U32),
            "float" => Some(Parameter::F32),
            _ => None,
        };
    };
    let (pointee, mutable) = match pointee.trim().strip_prefix("const ") {
        Some(pointee) => (pointee.trim(), false),
        None => (pointee.trim(), true),
    };
    let elements = match pointee {
        "bf16" => Some(DType::Bf16),
        "float" => Some(DType::F32),
        "unsigned" => Some(DType::U32),
        "unsigned char" => Some(DType::U8),
        "void" => None,
        _ => return None,
    };
    Some(Parameter::Tensor { elements, mutable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_its_kernels_take() {
        let text = "// a comment\nextern \"C\" __global__ void __launch_bounds__(32) first(const bf16 *x, float *y,\n    \
                    unsigned n, float eps) {\n}\nextern \"C\" __global__ void second(const void *x, unsigned char *y) {}\n";
        let program = Program::new("test", &[File { name: "test.cu", text }]).with("WIDE", true).with("N", 3usize);
        let tensor = |elements, mutable| Parameter::Tensor { elements, mutable };
        let first = [tensor(Some(DType::Bf16), false), tensor(Some(DType::F32), true), Parameter::U32, Parameter::F32];
        assert_eq!(program.parameters("first").unwrap(), first);
        assert_eq!(program.parameters("second").unwrap(), [tensor(None, false), tensor(Some(DType::U8), true)]);
        assert_eq!(program.parameters("third"), None);
        assert!(program.source().starts_with("#define WIDE 1\n#define N 3\n//"));
        assert_eq!(program.label(), "test test.cu WIDE=1 N=3");
    }
}
