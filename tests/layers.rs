//! The structure of the source tree: no import cycle, no upward dependency, no long file.

#[path = "support/imports.rs"]
mod imports;

use imports::{Import, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the crate, highest layer first. A module may import from lower layers only.
const CRATE: &[&[&str]] = &[
    &["main", "cli", "web"],
    &["engine"],
    &["bench", "conformance"],
    &["catalogue"],
    &["pipeline"],
    &["model"],
    &["weights", "backend"],
    &["tensor"],
    &["image"],
    &["json", "output_file", "reserve", "future", "named", "numbers"],
    &["error", "sync"],
];
/// The modules of `backend`.
const BACKEND: &[&[&str]] = &[&["cpu", "cuda", "webgpu"], &["gpu"], &["ops"], &["runtime"], &["shape"]];
/// The modules of `backend::cuda`.
const CUDA: &[&[&str]] = &[&["ops"], &["gemm"], &["matrix"], &["launch"], &["memory"], &["driver"]];
/// The modules of `backend::webgpu`.
const WEBGPU: &[&[&str]] = &[&["tests"], &["ops"], &["gemm"], &["matrix"], &["launch"], &["memory"], &["driver"]];

/// The maximum length of a source file.
const MAX_LINES: usize = 500;
/// The last column of a comment.
const MAX_COLUMNS: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The imports between the children of `parent`: (from, to) → one such import.
fn between<'a>(tree: &'a Tree, parent: &[&str]) -> BTreeMap<(&'a str, &'a str), &'a Import> {
    let child = |module: &'a [String]| -> Option<&'a str> {
        let inside = module.len() > parent.len() && module.iter().zip(parent).all(|(a, b)| a == b);
        inside.then(|| module[parent.len()].as_str())
    };
    let mut edges = BTreeMap::new();
    for import in tree.imports() {
        if let (Some(from), Some(to)) = (child(&import.from), child(&import.to))
            && from != to
        {
            edges.entry((from, to)).or_insert(import);
        }
    }
    edges
}

/// A cycle in `edges`, as the list of its modules.
fn cycle<'a>(edges: &BTreeMap<(&'a str, &'a str), &Import>) -> Option<Vec<&'a str>> {
    fn visit<'a>(
        module: &'a str,
        edges: &BTreeMap<(&'a str, &'a str), &Import>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<&'a str>> {
        if let Some(start) = path.iter().position(|on_path| *on_path == module) {
            return Some(path[start..].to_vec());
        }
        if done.contains(module) {
            return None;
        }
        path.push(module);
        let found = edges.keys().filter(|(from, _)| *from == module).find_map(|(_, to)| visit(to, edges, path, done));
        path.pop();
        done.insert(module);
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|(from, _)| visit(from, edges, &mut Vec::new(), &mut done))
}

/// The imports among the children of `parent` that violate the order of layers.
fn upward(tree: &Tree, parent: &[&str], layers: &[&[&str]]) -> Vec<String> {
    let layer = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let mut problems = Vec::new();
    for ((from, to), import) in between(tree, parent) {
        match (layer(from), layer(to)) {
            (Some(above), Some(below)) if above < below => {}
            (Some(_), Some(_)) => problems.push(format!("{import}: {from} is not above {to}")),
            _ => problems.push(format!("{import}: {from} or {to} is in no layer")),
        }
    }
    problems
}

#[test]
fn modules_import_without_cycles() {
    let tree = Tree::read(&root().join("src"));
    let mut problems = Vec::new();
    for parent in tree.parents() {
        let parent: Vec<&str> = parent.iter().map(String::as_str).collect();
        let edges = between(&tree, &parent);
        if let Some(cycle) = cycle(&edges) {
            let next = cycle.iter().cycle().skip(1);
            let imports = cycle.iter().zip(next).map(|(from, to)| edges[&(*from, *to)].to_string());
            let imports: Vec<String> = imports.collect();
            problems.push(format!("a cycle in {}:\n    {}", parent.join("::"), imports.join("\n    ")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn dependencies_point_down() {
    let tree = Tree::read(&root().join("src"));
    let problems = [
        upward(&tree, &[], CRATE),
        upward(&tree, &["backend"], BACKEND),
        upward(&tree, &["backend", "cuda"], CUDA),
        upward(&tree, &["backend", "webgpu"], WEBGPU),
    ]
    .concat();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn planted_violations_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write("lib.rs", "mod a;\nmod b;\npub use b::Thing;\n");
    write("a/mod.rs", "mod low;\nmod high;\npub(crate) use low::Low;\n");
    write("a/low.rs", "// use super::high::Commented;\npub struct Low;\n");
    write("a/high.rs", "use super::{\n    Low,\n    low::{self, Other as _},\n};\n");
    write("b.rs", "use crate::a::Low;\npub struct Thing;\nmod tests {\n    use super::*;\n}\n");
    let tree = Tree::read(folder.path());
    assert!(cycle(&between(&tree, &["a"])).is_none() && cycle(&between(&tree, &[])).is_none());
    assert_eq!(upward(&tree, &[], &[&["b"], &["a"]]), [""; 0]);
    assert_eq!(upward(&tree, &["a"], &[&["low"], &["high"]]).len(), 1, "a re-export hides no import");
    assert_eq!(upward(&tree, &[], &[&["a"], &["b"]]).len(), 1);
    assert_eq!(upward(&tree, &[], &[&["a", "b"]]).len(), 1, "modules of one layer are apart");
    assert_eq!(upward(&tree, &[], &[&["a"]]).len(), 1, "every module is in a layer");

    write("a/low.rs", "fn f() {\n    super::high::g();\n}\n");
    assert_eq!(cycle(&between(&Tree::read(folder.path()), &["a"])).unwrap().len(), 2);
    write("a/low.rs", "mod tests {\n    use super::super::high::g;\n}\n");
    assert_eq!(cycle(&between(&Tree::read(folder.path()), &["a"])).unwrap().len(), 2);
    write("a/low.rs", "use crate::Thing;\n");
    assert_eq!(cycle(&between(&Tree::read(folder.path()), &[])).unwrap().len(), 2);
}

/// The files below `folder` with one of `extensions`.
fn sources(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && !["node_modules", "dist", "target"].contains(&name) {
                sources(&path, extensions, found);
            }
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|known| extension == *known)) {
            found.push(path);
        }
    }
}

/// The source files of every language.
fn all_sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "kernels", "shaders", "web"] {
        sources(&root().join(folder), &["rs", "cu", "cuh", "h", "wgsl", "ts"], &mut files);
    }
    assert!(files.len() > 300, "{} files", files.len());
    files
}

#[test]
fn source_files_are_short() {
    let lines = |file: &Path| fs::read_to_string(file).unwrap().lines().count();
    let long: Vec<String> = all_sources()
        .iter()
        .map(|file| (file, lines(file)))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(file, lines)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "longer than {MAX_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn comments_are_narrow() {
    let mut wide = Vec::new();
    for file in all_sources() {
        for (number, line) in (1..).zip(fs::read_to_string(&file).unwrap().lines()) {
            let comment = line.trim_start();
            // Rows of a table cannot be wrapped.
            let counts = comment.starts_with("//") && !comment.starts_with("//! |");
            if counts && line.chars().count() > MAX_COLUMNS {
                wide.push(format!("{}:{number}", file.display()));
            }
        }
    }
    assert!(wide.is_empty(), "comments past column {MAX_COLUMNS}:\n{}", wide.join("\n"));
}
