//! Shaders as text: which files make a program, and the constants in front of them.
//!
//! A *program* is a few WGSL files joined behind a header of `const`s. That is the whole scheme for
//! variants: a verb's file calls functions such as `weight4` or `x4` without knowing who wrote
//! them, and the variant is the choice of the file that provides them. Override constants alone
//! cannot size a thread's arrays, change a binding's element type or `enable` an extension; import
//! languages can, but bring a second WGSL parser that has to follow every extension that we want to
//! use (cooperative matrices first of all). Joined text passes a browser as it stands.

use crate::backend::webgpu::driver::pipelines::{Access, Source};
use std::fmt::Write;

/// A file in `shaders/`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File {
    pub name: &'static str,
    pub text: &'static str,
}

/// The file `shaders/<name>.wgsl`.
macro_rules! wgsl {
    ($name:literal) => {
        $crate::backend::webgpu::launch::program::File {
            name: $name,
            text: include_str!(concat!("../../../../shaders/", $name, ".wgsl")),
        }
    };
}
pub(crate) use wgsl;

/// A `const` in front of the files.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Constant {
    U32(usize),
    Bool(bool),
}

impl From<usize> for Constant {
    fn from(value: usize) -> Self {
        Constant::U32(value)
    }
}

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Constant::Bool(value)
    }
}

/// One shader with all its choices made.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The verb, or the part of it.
    pub name: &'static str,
    /// The function to run.
    pub entry: &'static str,
    files: Vec<File>,
    constants: Vec<(&'static str, Constant)>,
}

impl Program {
    /// The program `main` of `files`.
    pub(crate) fn new(name: &'static str, files: &[File]) -> Self {
        Self { name, entry: "main", files: files.to_vec(), constants: Vec::new() }
    }

    /// Starts at another function.
    pub(crate) fn entry(self, entry: &'static str) -> Self {
        Self { entry, ..self }
    }

    /// Appends a file.
    pub(crate) fn file(mut self, file: File) -> Self {
        self.files.push(file);
        self
    }

    /// Puts `const name = value` in front.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// What tells this program from all others: its files and constants in words.
    pub(crate) fn label(&self) -> String {
        let mut label = format!("{} {}", self.name, self.entry);
        for file in &self.files {
            let _ = write!(label, " {}", file.name);
        }
        for (name, value) in &self.constants {
            let _ = match value {
                Constant::U32(value) => write!(label, " {name}={value}"),
                Constant::Bool(value) => write!(label, " {name}={value}"),
            };
        }
        label
    }

    /// The WGSL: what the files enable, the constants, the files with their loops unrolled where
    /// they ask for it.
    pub(crate) fn source(&self) -> String {
        let (enabled, lines): (Vec<&str>, Vec<&str>) = self
            .files
            .iter()
            .flat_map(|file| file.text.lines())
            .partition(|line| line.starts_with("enable ") || line.starts_with("diagnostic("));
        let mut source = String::new();
        for kind in ["enable", "diagnostic"] {
            for (i, line) in enabled.iter().enumerate() {
                if line.starts_with(kind) && !enabled[..i].contains(line) {
                    source.push_str(line);
                    source.push('\n');
                }
            }
        }
        for (name, value) in &self.constants {
            let _ = match value {
                Constant::U32(value) => writeln!(source, "const {name}: u32 = {value}u;"),
                Constant::Bool(value) => writeln!(source, "const {name}: bool = {value};"),
            };
        }
        self.unroll(&lines, &mut source);
        source
    }

    /// Appends `lines`. A loop that ends in `{ // unroll` is repeated as text, its counter a
    /// constant: cooperative matrices in an array can only be told apart by constants, and not
    /// every driver unrolls by itself.
    fn unroll(&self, lines: &[&str], source: &mut String) {
        let mut rest = lines.iter().enumerate();
        while let Some((at, line)) = rest.next() {
            let Some(Loop { indent, counter, times }) = self.unrolled(line) else {
                source.push_str(line);
                source.push('\n');
                continue;
            };
            let end = format!("{}}}", " ".repeat(indent));
            let body = lines[at + 1..].iter().take_while(|line| **line != end).count();
            for i in 0..times {
                let _ = writeln!(source, "{{\nconst {counter}: u32 = {i}u;");
                self.unroll(&lines[at + 1..at + 1 + body], source);
                source.push_str("}\n");
            }
            rest.nth(body);
        }
    }

    /// The loop that `line` opens if it is to be unrolled: `for (var i = 0u; i < COUNT; i++) { //
    /// unroll`.
    fn unrolled<'a>(&self, line: &'a str) -> Option<Loop<'a>> {
        let head = line.trim_start();
        let (counter, rest) = head.strip_suffix(" { // unroll")?.strip_prefix("for (var ")?.split_once(" = 0u; ")?;
        let (_, bound) = rest.split_once(" < ")?;
        let (bound, _) = bound.split_once(';')?;
        let times = self.constants.iter().find_map(|(name, value)| match value {
            Constant::U32(value) if *name == bound => Some(*value),
            _ => None,
        })?;
        Some(Loop { indent: line.len() - head.len(), counter, times })
    }

    /// The program, ready to be compiled.
    pub(crate) fn compiled(&self) -> Source {
        Source { entry: self.entry, text: self.source(), bindings: self.bindings() }
    }

    /// What is bound where, read from the declarations: `@group(0) @binding(i) var<…>`, one a line.
    pub(crate) fn bindings(&self) -> Vec<(u32, Access)> {
        let mut bindings: Vec<(u32, Access)> =
            self.files.iter().flat_map(|file| file.text.lines()).filter_map(binding).collect();
        bindings.sort_unstable_by_key(|(index, _)| *index);
        bindings
    }
}

/// A loop to unroll.
struct Loop<'a> {
    indent: usize,
    counter: &'a str,
    times: usize,
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
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_binds() {
        let file = File {
            name: "test",
            text: "@group(0) @binding(2) var<storage, read_write> y: array<f32>;\n\
                   // a comment\n\
                   @group(0) @binding(0) var<uniform> p: Params;\n\
                   @group(0) @binding(1) var<storage, read> x: array<f32>;\n",
        };
        let program = Program::new("test", &[file]).with("WIDE", true).with("N", 3);
        assert_eq!(program.bindings(), [(0, Access::Uniform), (1, Access::Read), (2, Access::ReadWrite)]);
        assert!(program.source().starts_with("const WIDE: bool = true;\nconst N: u32 = 3u;\n@group"));
        assert_eq!(program.label(), "test main test WIDE=true N=3");
    }

    #[test]
    fn loops_that_ask_for_it_are_unrolled_and_extensions_come_first() {
        let file = File {
            name: "test",
            text: "enable f16;\n\
                   fn f() {\n    for (var i = 0u; i < N; i++) { // unroll\n        for (var j = 0u; j < 1; j++) {\n\
                   \x20           g(i);\n        }\n    }\n    for (var i = 0u; i < N; i++) {\n    }\n}\n",
        };
        let source = Program::new("test", &[file, file]).with("N", 2).source();
        assert!(source.starts_with("enable f16;\nconst N: u32 = 2u;\nfn f() {\n{\nconst i: u32 = 0u;\n"), "{source}");
        assert_eq!(source.matches("enable f16;").count(), 1);
        assert_eq!(source.matches("g(i);").count(), 4, "{source}");
        assert_eq!(source.matches("for (var i = 0u; i < N; i++) {\n    }").count(), 2, "{source}");
    }
}
