//! Programs: a shader file with all choices made.

use super::shader::{Constant, File, preprocess};
use super::uniform::{Field, Uniform};
use crate::backend::webgpu::driver::pipelines::{Access, Source};
use crate::backend::webgpu::driver::variant::Reduction;
use crate::error::{Error, Result};
use std::fmt::Write;

/// A shader in one of its variants.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The op, or a part of it.
    pub name: &'static str,
    entry: &'static str,
    file: File,
    flags: Vec<&'static str>,
    constants: Vec<(&'static str, Constant)>,
    /// The fields of its `Params`.
    pub params: Vec<Field>,
}

/// A shader as WGSL, for tests that hand it to other compilers.
#[derive(Debug, Clone)]
pub struct Shader {
    /// The op, the file, and the choices that were made.
    pub label: String,
    /// The entry point.
    pub entry: &'static str,
    /// The WGSL.
    pub source: String,
    /// The fields of its `Params` as Rust fills them.
    pub params: Vec<Field>,
}

impl Program {
    /// The program of `file` whose `Params` is `P`.
    pub(crate) fn new<P: Uniform>(name: &'static str, file: File) -> Self {
        Self::with_params(name, file, P::FIELDS.to_vec())
    }

    /// The program of `file` with these fields in its `Params`.
    pub(crate) fn with_params(name: &'static str, file: File, params: Vec<Field>) -> Self {
        Self { name, entry: "main", file, flags: Vec::new(), constants: Vec::new(), params }
    }

    /// Sets the entry point.
    pub(crate) fn entry(self, entry: &'static str) -> Self {
        Self { entry, ..self }
    }

    /// Defines a flag for `#ifdef`.
    pub(crate) fn define(mut self, flag: &'static str) -> Self {
        self.flags.push(flag);
        self
    }

    /// Sets a constant.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Chooses the reduction of `shared/reduce.wgsl`: workgroups of `threads`, in which teams of
    /// `team` neighbours reduce among themselves. Only a whole workgroup uses subgroups: the border
    /// of a smaller team within them is unknown.
    pub(crate) fn reduces(self, reduction: Reduction, threads: usize, team: usize) -> Self {
        let program = self.with("THREADS", threads).with("TEAM", team);
        match reduction {
            Reduction::Subgroups if team == threads => program.define("SUBGROUPS"),
            Reduction::Subgroups | Reduction::Tree => program,
        }
    }

    /// Unique key: the name, the file and all choices.
    pub(crate) fn label(&self) -> String {
        let mut label = format!("{} {} {}", self.name, self.file.name, self.entry);
        for flag in &self.flags {
            let _ = write!(label, " {flag}");
        }
        for (name, value) in &self.constants {
            let _ = match value {
                Constant::U32(value) => write!(label, " {name}={value}"),
                Constant::Bool(value) => write!(label, " {name}={value}"),
            };
        }
        label
    }

    /// The WGSL.
    fn text(&self) -> Result<String> {
        preprocess(self.file, &self.flags, &self.constants)
            .map_err(|problem| Error::internal(format!("{}: {problem}", self.name)))
    }

    /// The WGSL with its bindings, for the driver's compiler.
    pub(super) fn source(&self) -> Result<Source> {
        let text = self.text()?;
        Ok(Source { entry: self.entry, bindings: bindings(&text), text })
    }

    /// The WGSL for tests.
    pub(crate) fn shader(&self) -> Result<Shader> {
        Ok(Shader { label: self.label(), entry: self.entry, source: self.text()?, params: self.params.clone() })
    }
}

/// The bindings that WGSL declares, one a line: `@group(0) @binding(i) var<…>`.
fn bindings(text: &str) -> Vec<(u32, Access)> {
    let mut bindings: Vec<(u32, Access)> = text.lines().filter_map(binding).collect();
    bindings.sort_unstable_by_key(|(index, _)| *index);
    bindings
}

fn binding(line: &str) -> Option<(u32, Access)> {
    let (index, rest) = line.strip_prefix("@group(0) @binding(")?.split_once(')')?;
    let access = if rest.contains("var<uniform>") {
        Access::Uniform
    } else if rest.contains("var<storage, read_write>") {
        Access::ReadWrite
    } else {
        Access::Read
    };
    Some((index.parse().ok()?, access))
}

#[cfg(test)]
impl Program {
    /// The same file and flags with the declared defaults of all constants.
    pub(crate) fn with_defaults(self) -> Self {
        Self { constants: Vec::new(), ..self }
    }

    /// Whether a flag is defined.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_follow_declarations() {
        let text = "@group(0) @binding(2) var<storage, read_write> y: array<f32>;\n\
                    // a comment\n\
                    @group(0) @binding(0) var<uniform> p: Params;\n\
                    @group(0) @binding(1) var<storage, read> x: array<f32>;\n";
        assert_eq!(bindings(text), [(0, Access::Uniform), (1, Access::Read), (2, Access::ReadWrite)]);
    }

    #[test]
    fn labels_name_every_choice() {
        let file = File { name: "test", text: "" };
        let program = Program::new::<()>("op", file).define("SUBGROUPS").with("WIDE", true).with("N", 3);
        assert_eq!(program.label(), "op test main SUBGROUPS WIDE=true N=3");
    }
}
