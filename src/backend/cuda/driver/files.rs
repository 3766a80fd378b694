//! The files of `kernels/`, and which headers a file includes.

/// A file of `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Its path in `kernels/`, as an `#include` names it.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The file `kernels/<name>`.
macro_rules! kernel {
    ($name:literal) => {
        $crate::backend::cuda::driver::files::File {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $name)),
        }
    };
}
pub(crate) use kernel;

/// Every header. NVRTC reads them from memory.
pub(super) const HEADERS: &[File] = &[
    kernel!("common/attention.cuh"),
    kernel!("common/fp8.cuh"),
    kernel!("common/math.cuh"),
    kernel!("common/ptx/convert.cuh"),
    kernel!("common/ptx/cp_async.cuh"),
    kernel!("common/ptx/mma.cuh"),
    kernel!("common/ptx/shared.cuh"),
    kernel!("common/quantized.cuh"),
    kernel!("common/reduce.cuh"),
    kernel!("common/types.cuh"),
    kernel!("common/vec.cuh"),
    kernel!("gemm/epilogue.cuh"),
    kernel!("gemm/fragments.cuh"),
    kernel!("gemm/gemv.cuh"),
    kernel!("gemm/operand.cuh"),
    kernel!("gemm/tile.cuh"),
    kernel!("sm90/gemm.cuh"),
    kernel!("sm90/norm_rope.cuh"),
    kernel!("sm90/ptx/barrier.cuh"),
    kernel!("sm90/ptx/cluster.cuh"),
    kernel!("sm90/ptx/pdl.cuh"),
    kernel!("sm90/ptx/stmatrix.cuh"),
    kernel!("sm90/ptx/tma.cuh"),
    kernel!("sm90/ptx/wgmma.cuh"),
    kernel!("sm90/quantized.cuh"),
];

/// The headers of `headers` that `file` includes, directly or through others, each once.
///
/// # Errors
/// A sentence about an include that is missing or cyclic.
pub(super) fn included(file: File, headers: &[File]) -> Result<Vec<File>, String> {
    let mut found = Vec::new();
    visit(&mut vec![file], headers, &mut found)?;
    Ok(found)
}

/// Adds what the last file of `path` includes; each file of `path` includes the next one.
fn visit(path: &mut Vec<File>, headers: &[File], found: &mut Vec<File>) -> Result<(), String> {
    let Some(&file) = path.last() else { return Ok(()) };
    for name in includes(file.text) {
        if found.iter().any(|header| header.name == name) {
            continue;
        }
        if let Some(start) = path.iter().position(|file| file.name == name) {
            let cycle: Vec<&str> = path[start..].iter().map(|file| file.name).chain([name]).collect();
            return Err(format!("{name} includes itself: {}", cycle.join(" → ")));
        }
        let header = headers.iter().find(|header| header.name == name);
        let header = header.ok_or_else(|| format!("{} includes {name}, which is not in kernels/", file.name))?;
        path.push(*header);
        visit(path, headers, found)?;
        path.pop();
        found.push(*header);
    }
    Ok(())
}

/// The names in a text's `#include "name"` lines.
fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_before_their_includers_once() {
        let a = File { name: "a.cuh", text: "#include \"b.cuh\"\n" };
        let b = File { name: "b.cuh", text: "#pragma once\n// #include \"c.cuh\"\n" };
        let file = File { name: "file.cu", text: "#include \"a.cuh\"\n#include \"b.cuh\"\nint x;\n" };
        assert_eq!(included(file, &[a, b]), Ok(vec![b, a]));
    }

    #[test]
    fn missing_and_cyclic_includes_are_errors() {
        let a = File { name: "a.cuh", text: "#include \"b.cuh\"" };
        let b = File { name: "b.cuh", text: "#include \"a.cuh\"" };
        let file = File { name: "file.cu", text: "#include \"a.cuh\"" };
        assert_eq!(included(file, &[a]), Err("a.cuh includes b.cuh, which is not in kernels/".into()));
        assert_eq!(included(file, &[a, b]), Err("a.cuh includes itself: a.cuh → b.cuh → a.cuh".into()));
    }
}
