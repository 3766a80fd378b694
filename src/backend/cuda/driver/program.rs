//! Programs: a kernel file, the constants it is compiled with, and the parameters of its entries.
//!
//! A program is one file of `kernels/`, compiled for the device at hand together with the headers
//! it includes. Loop bounds and choices that a thread should not make are constants; all else is an
//! argument. A launch's arguments are checked against the parameters that the text declares,
//! because nothing else would.

pub use super::files::File;
pub(crate) use super::files::kernel;
use super::files::{self, HEADERS};
use crate::error::{Error, Result};
use crate::tensor::DType;
use std::fmt::Write;
use std::hash::{Hash, Hasher};

/// A kernel file with all its constants. Two programs are equal if they have the same machine code
/// and launch attributes: `name` does not count.
#[derive(Debug, Clone)]
pub struct Program {
    /// The op, or a part of it.
    pub(crate) name: &'static str,
    file: File,
    constants: Vec<(&'static str, usize)>,
    pdl: bool,
}

impl Program {
    /// Everything that tells programs apart; a file's name tells its text.
    fn key(&self) -> (&'static str, &[(&'static str, usize)], bool) {
        (self.file.name, &self.constants, self.pdl)
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Program {}

impl Hash for Program {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// The type of a kernel's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// A tensor of these elements, or of any; changed when `mutable`.
    Tensor {
        elements: Option<DType>,
        mutable: bool,
    },
    /// A tensor map for TMA.
    Map,
    U32,
    F32,
}

impl Program {
    /// The program of `file`, which may include any header of `kernels/`.
    pub fn new(name: &'static str, file: File) -> Self {
        Self { name, file, constants: Vec::new(), pdl: false }
    }

    /// Defines a constant.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<usize>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Defines several constants.
    pub(crate) fn with_all<V: Into<usize>>(self, constants: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        constants.into_iter().fold(self, |program, (name, value)| program.with(name, value))
    }

    /// Declares that the kernels call `griddepcontrol_wait` before they touch memory, so that they
    /// may launch before the preceding ones have ended (programmatic dependent launch).
    pub(crate) fn pdl(mut self) -> Self {
        self.pdl = true;
        self
    }

    /// Whether the kernels are launched by programmatic dependent launch.
    pub fn is_pdl(&self) -> bool {
        self.pdl
    }

    /// The names of the constants.
    pub fn constants(&self) -> impl Iterator<Item = &'static str> {
        self.constants.iter().map(|(name, _)| *name)
    }

    /// A unique key: the file's name and the constants.
    pub fn label(&self) -> String {
        let mut label = self.file.name.to_owned();
        for (name, value) in &self.constants {
            let _ = write!(label, " {name}={value}");
        }
        label
    }

    /// The kernel file.
    pub fn file(&self) -> File {
        self.file
    }

    /// The headers that the file includes, directly or through others.
    ///
    /// # Errors
    /// [`Error::Internal`] when an include is missing or cyclic.
    pub fn headers(&self) -> Result<Vec<File>> {
        let problem = |problem| Error::internal(format!("{} cannot be compiled: {problem}", self.file.name));
        files::included(self.file, HEADERS).map_err(problem)
    }

    /// The compiler options that define the constants.
    pub(super) fn defines(&self) -> impl Iterator<Item = String> {
        self.constants.iter().map(|(name, value)| format!("-D{name}={value}"))
    }

    /// All text that the machine code is made from: constants, headers and file. A file whose
    /// includes are wrong is rejected when it is compiled.
    pub fn source(&self) -> String {
        let headers = self.headers().unwrap_or_default();
        let texts = headers.iter().chain([&self.file]).map(|file| file.text.to_owned());
        self.defines().map(|define| define + "\n").chain(texts).collect()
    }

    /// The parameters of the kernel `entry`, parsed from its declaration; `None` without such a
    /// kernel.
    pub(super) fn parameters(&self, entry: &str) -> Option<Vec<Parameter>> {
        self.file.text.split("extern \"C\" __global__").skip(1).find_map(|text| {
            let head = text.split('{').next()?;
            let rest = head.split_once(&format!(" {entry}("))?.1;
            rest.rsplit_once(')')?.0.split(',').map(parameter).collect()
        })
    }
}

/// The type that a declaration such as `const bf16 *x` or `unsigned n` has.
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

    const TEXT: &str = "// a comment\n#include \"common/math.cuh\"\nextern \"C\" __global__ void \
                        __launch_bounds__(32) first(const bf16 *x, float *y,\n    unsigned n, float eps) {\n}\n\
                        extern \"C\" __global__ void second(const void *x, unsigned char *y) {}\n";

    #[test]
    fn parameters_are_parsed_from_declarations() {
        let program = Program::new("test", File { name: "test.cu", text: TEXT });
        let tensor = |elements, mutable| Parameter::Tensor { elements, mutable };
        let first = [tensor(Some(DType::Bf16), false), tensor(Some(DType::F32), true), Parameter::U32, Parameter::F32];
        assert_eq!(program.parameters("first").unwrap(), first);
        assert_eq!(program.parameters("second").unwrap(), [tensor(None, false), tensor(Some(DType::U8), true)]);
        assert_eq!(program.parameters("third"), None);
    }

    #[test]
    fn a_source_covers_constants_headers_and_file() {
        let program = Program::new("test", File { name: "test.cu", text: TEXT }).with("WIDE", true).with("N", 3usize);
        assert_eq!(program.label(), "test.cu WIDE=1 N=3");
        let math = HEADERS.iter().find(|header| header.name == "common/math.cuh").unwrap();
        assert_eq!(program.source(), format!("-DWIDE=1\n-DN=3\n{}{TEXT}", math.text));
    }
}
