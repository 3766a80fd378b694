//! Shader files and their preprocessor: `#import`, `#ifdef`, constants and `#unroll`.
//!
//! `shaders/README.md` defines the directives. Override constants alone cannot size a thread's
//! arrays, change a binding's element type or `enable` an extension, so variants are made as text.
//! The preprocessor works by lines and does not parse WGSL, so it accepts every extension that a
//! driver has, cooperative matrices first of all.

use std::collections::HashMap;
use std::fmt::Write;

/// A file in `shaders/`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File {
    /// The path without its ending, such as `gemm/tile`.
    pub name: &'static str,
    pub text: &'static str,
}

/// The file `shaders/<name>.wgsl`.
macro_rules! wgsl {
    ($name:literal) => {
        $crate::backend::webgpu::launch::shader::File {
            name: $name,
            text: include_str!(concat!("../../../../shaders/", $name, ".wgsl")),
        }
    };
}
pub(crate) use wgsl;

/// The files that others may import.
const IMPORTS: [File; 15] = [
    wgsl!("gemm/cooperative"),
    wgsl!("gemm/direct"),
    wgsl!("gemm/gemm"),
    wgsl!("gemm/gemv"),
    wgsl!("gemm/packed"),
    wgsl!("gemm/tile"),
    wgsl!("gemm/weight_rows"),
    wgsl!("gemm/weights"),
    wgsl!("shared/cooperative"),
    wgsl!("shared/dispatch"),
    wgsl!("shared/f16"),
    wgsl!("shared/input"),
    wgsl!("shared/math"),
    wgsl!("shared/quantized"),
    wgsl!("shared/reduce"),
];

/// The value of a `const`.
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

impl Constant {
    /// The type and the value of the declaration, after its colon.
    fn declaration(self) -> String {
        match self {
            Constant::U32(value) => format!("u32 = {value}u;"),
            Constant::Bool(value) => format!("bool = {value};"),
        }
    }
}

/// The WGSL of `root` with its imports, where `flags` are defined and `constants` have these
/// values.
///
/// # Errors
/// A sentence with the file and the line of a directive that cannot be followed.
pub(super) fn preprocess(
    root: File,
    flags: &[&'static str],
    constants: &[(&'static str, Constant)],
) -> Result<String, String> {
    preprocess_with(&IMPORTS, root, flags, constants)
}

fn preprocess_with(
    imports: &[File],
    root: File,
    flags: &[&'static str],
    constants: &[(&'static str, Constant)],
) -> Result<String, String> {
    let unset = constants.iter().map(|(name, _)| *name).collect();
    let mut reader = Reader { imports, flags, constants, unset, imported: Vec::new(), lines: Vec::new() };
    reader.include(root)?;
    if let Some(name) = reader.unset.first() {
        return Err(format!("{}.wgsl: no file declares the constant {name}", root.name));
    }
    let (extensions, lines): (Vec<&str>, Vec<&str>) = reader
        .lines
        .iter()
        .map(String::as_str)
        .partition(|line| line.starts_with("enable ") || line.starts_with("diagnostic("));
    let mut source = String::new();
    for kind in ["enable", "diagnostic"] {
        for (i, line) in extensions.iter().enumerate() {
            if line.starts_with(kind) && !extensions[..i].contains(line) {
                source.push_str(line);
                source.push('\n');
            }
        }
    }
    unroll(&lines, &counts(&lines), &mut source)?;
    Ok(source)
}

/// The state of the first pass: imports, conditions and constants.
struct Reader<'a> {
    imports: &'a [File],
    flags: &'a [&'static str],
    constants: &'a [(&'static str, Constant)],
    /// Constants whose declaration was not found yet.
    unset: Vec<&'static str>,
    imported: Vec<&'static str>,
    lines: Vec<String>,
}

impl Reader<'_> {
    /// Appends a file, unless it was imported before.
    fn include(&mut self, file: File) -> Result<(), String> {
        if self.imported.contains(&file.name) {
            return Ok(());
        }
        self.imported.push(file.name);
        // The open conditions, outermost first.
        let mut conditions = Vec::new();
        for (line, number) in file.text.lines().zip(1..) {
            let at = |problem: &str| format!("{}.wgsl:{number}: {problem}", file.name);
            let words: Vec<&str> = line.split_whitespace().collect();
            let skipped = conditions.contains(&false);
            match words[..] {
                ["#ifdef", flag] => conditions.push(self.flags.contains(&flag)),
                ["#ifndef", flag] => conditions.push(!self.flags.contains(&flag)),
                ["#else"] => {
                    let last = conditions.last_mut().ok_or_else(|| at("#else without #ifdef"))?;
                    *last = !*last;
                }
                ["#endif"] => {
                    conditions.pop().ok_or_else(|| at("#endif without #ifdef"))?;
                }
                _ if skipped => {}
                ["#import", name] => {
                    let found = self.imports.iter().find(|file| file.name == name);
                    self.include(*found.ok_or_else(|| at(&format!("{name} cannot be imported")))?)?;
                }
                ["#unroll"] => self.lines.push(line.to_owned()),
                [word, ..] if word.starts_with('#') => return Err(at(&format!("{line:?} is no directive"))),
                _ => {
                    let line = self.constant(line).map_err(|problem| at(&problem))?;
                    self.lines.push(line);
                }
            }
        }
        if conditions.is_empty() { Ok(()) } else { Err(format!("{}.wgsl: #endif is missing", file.name)) }
    }

    /// `line`, with the value that was set for the constant that it declares.
    fn constant(&mut self, line: &str) -> Result<String, String> {
        let declared = line.strip_prefix("const ").and_then(|rest| rest.split_once(": "));
        let Some((declared, default)) = declared else { return Ok(line.to_owned()) };
        let Some((name, value)) = self.constants.iter().find(|(name, _)| *name == declared) else {
            return Ok(line.to_owned());
        };
        let set = value.declaration();
        if set.split_once(' ').map(|(ty, _)| ty) != default.split_once(' ').map(|(ty, _)| ty) {
            return Err(format!("{name} cannot be {set}"));
        }
        self.unset.retain(|unset| unset != name);
        Ok(format!("const {name}: {set}"))
    }
}

/// The constants that are declared by a number.
fn counts<'a>(lines: &[&'a str]) -> HashMap<&'a str, usize> {
    let count = |line: &&'a str| {
        let (name, value) = line.strip_prefix("const ")?.strip_suffix("u;")?.split_once(": u32 = ")?;
        Some((name, value.parse().ok()?))
    };
    lines.iter().filter_map(count).collect()
}

/// Appends `lines` with the loops behind `#unroll` repeated as text, their counters constants.
fn unroll(lines: &[&str], counts: &HashMap<&str, usize>, source: &mut String) -> Result<(), String> {
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        if line.trim() != "#unroll" {
            source.push_str(line);
            source.push('\n');
            continue;
        }
        let head = lines.get(at).copied().unwrap_or_default();
        let Loop { counter, times } =
            Loop::parse(head, counts).ok_or_else(|| format!("{head:?} cannot be unrolled"))?;
        let indent = head.len() - head.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let body = &lines[at + 1..];
        let length = body.iter().take_while(|line| **line != end).count();
        for i in 0..times {
            let _ = writeln!(source, "{{\nconst {counter}: u32 = {i}u;");
            unroll(&body[..length], counts, source)?;
            source.push_str("}\n");
        }
        at += length + 2;
    }
    Ok(())
}

/// A loop to unroll: `for (var i = 0u; i < COUNT; i++) {`.
struct Loop<'a> {
    counter: &'a str,
    times: usize,
}

impl<'a> Loop<'a> {
    fn parse(line: &'a str, counts: &HashMap<&str, usize>) -> Option<Self> {
        let head = line.trim().strip_prefix("for (var ")?.strip_suffix("++) {")?;
        let (counter, rest) = head.split_once(" = 0u; ")?;
        let (_, rest) = rest.split_once(" < ")?;
        let (bound, _) = rest.split_once("; ")?;
        Some(Self { counter, times: *counts.get(bound)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: File = File { name: "shared", text: "enable f16;\nconst N: u32 = 4u;\nfn shared() {}\n" };

    fn source(text: &'static str, flags: &[&'static str], constants: &[(&'static str, Constant)]) -> String {
        preprocess_with(&[SHARED], File { name: "test", text }, flags, constants).unwrap()
    }

    fn error(text: &'static str, constants: &[(&'static str, Constant)]) -> String {
        preprocess_with(&[SHARED], File { name: "test", text }, &[], constants).unwrap_err()
    }

    #[test]
    fn files_are_imported_once() {
        let found = source("#import shared\n#import shared\nfn f() {}\n", &[], &[]);
        assert_eq!(found, "enable f16;\nconst N: u32 = 4u;\nfn shared() {}\nfn f() {}\n");
    }

    #[test]
    fn conditions_nest() {
        let text = "#ifdef A\na\n#ifndef B\nb\n#endif\n#else\nc\n#endif\n";
        assert_eq!(source(text, &["A"], &[]), "a\nb\n");
        assert_eq!(source(text, &["A", "B"], &[]), "a\n");
        assert_eq!(source(text, &[], &[]), "c\n");
    }

    #[test]
    fn constants_replace_declared_defaults() {
        let text = "const N: u32 = 1u;\nconst WIDE: bool = false;\nconst M: u32 = 2u * N;\n";
        let found = source(text, &[], &[("WIDE", true.into()), ("N", 3.into())]);
        assert_eq!(found, "const N: u32 = 3u;\nconst WIDE: bool = true;\nconst M: u32 = 2u * N;\n");
    }

    #[test]
    fn marked_loops_are_unrolled() {
        let text = "#import shared\nfn f() {\n    #unroll\n    for (var i = 0u; i < N; i++) {\n        \
                    for (var j = 0u; j < 1; j++) {\n            g(i);\n        }\n    }\n    h();\n}\n";
        let found = source(text, &[], &[("N", 2.into())]);
        assert_eq!(found.matches("{\nconst i: u32 = ").count(), 2, "{found}");
        assert_eq!(found.matches("g(i);").count(), 2, "{found}");
        assert!(found.ends_with("}\n    h();\n}\n"), "{found}");
    }

    #[test]
    fn wrong_directives_name_their_line() {
        assert_eq!(error("\n#import other\n", &[]), "test.wgsl:2: other cannot be imported");
        assert_eq!(error("#else\n", &[]), "test.wgsl:1: #else without #ifdef");
        assert_eq!(error("#endif\n", &[]), "test.wgsl:1: #endif without #ifdef");
        assert_eq!(error("#ifdef A\n", &[]), "test.wgsl: #endif is missing");
        assert_eq!(error("#if A\n", &[]), "test.wgsl:1: \"#if A\" is no directive");
        assert_eq!(error("", &[("N", 1.into())]), "test.wgsl: no file declares the constant N");
        let mistyped = error("const N: bool = true;\n", &[("N", 1.into())]);
        assert_eq!(mistyped, "test.wgsl:1: N cannot be u32 = 1u;");
        assert_eq!(error("#unroll\nwhile (true) {\n}\n", &[]), "\"while (true) {\" cannot be unrolled");
    }
}
