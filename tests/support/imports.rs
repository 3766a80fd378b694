//! The imports of a source tree, extracted from the paths in its text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// The path of a module in the crate; the crate's root is empty.
type Module = Vec<String>;

/// A path from one module to an item of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    /// The importing module.
    pub from: Module,
    /// The module that defines the item.
    pub to: Module,
    line: usize,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}) imports {}", self.from.join("::"), self.line, self.to.join("::"))
    }
}

/// The modules below a folder.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    modules: BTreeSet<Module>,
    /// Imported or re-exported names of a module → their full path.
    names: BTreeMap<Module, BTreeMap<String, Module>>,
    /// The glob re-exports of a module.
    globs: BTreeMap<Module, Vec<Module>>,
    imports: Vec<Import>,
}

/// A path in a file's text, resolved up to `crate` and `super`.
struct Named {
    path: Module,
    alias: Option<String>,
    is_use: bool,
    line: usize,
}

impl Tree {
    /// Reads every Rust file below `folder`, which contains `lib.rs`.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut texts = BTreeMap::new();
        read_files(folder, &Vec::new(), &mut texts);
        let mut tree = Self { modules: texts.keys().cloned().collect(), ..Self::default() };
        let named: BTreeMap<Module, Vec<Named>> =
            texts.iter().map(|(module, text)| (module.clone(), tree.paths(module, text))).collect();
        for (module, paths) in &named {
            for Named { path, alias, is_use, .. } in paths.iter().filter(|named| named.is_use) {
                debug_assert!(is_use);
                match path.last().map(String::as_str) {
                    Some("*") => {
                        tree.globs.entry(module.clone()).or_default().push(path[..path.len() - 1].to_vec());
                    }
                    Some(last) => {
                        let name = alias.clone().unwrap_or_else(|| last.to_owned());
                        tree.names.entry(module.clone()).or_default().insert(name, path.clone());
                    }
                    None => {}
                }
            }
        }
        for (from, paths) in named {
            for Named { path, line, .. } in paths {
                let to = tree.defined_in(&path, 0);
                if to != from {
                    tree.imports.push(Import { from: from.clone(), to, line });
                }
            }
        }
        tree
    }

    /// All imports.
    pub(crate) fn imports(&self) -> &[Import] {
        &self.imports
    }

    /// The modules that have child modules.
    pub(crate) fn parents(&self) -> BTreeSet<Module> {
        self.modules
            .iter()
            .filter(|module| !module.is_empty())
            .map(|module| module[..module.len() - 1].to_vec())
            .collect()
    }

    /// The module that defines the item at `path`, resolved through re-exports.
    fn defined_in(&self, path: &[String], depth: usize) -> Module {
        let known = (0..=path.len()).rev().find(|n| self.modules.contains(&path[..*n])).unwrap_or(0);
        let module = path[..known].to_vec();
        let Some(name) = path.get(known).filter(|_| depth < 8) else { return module };
        if let Some(target) =
            self.names.get(&module).and_then(|names| names.get(name)).filter(|target| **target != *path)
        {
            return self.defined_in(target, depth + 1);
        }
        for glob in self.globs.get(&module).into_iter().flatten().filter(|glob| **glob != module) {
            let inside = [&glob[..], &path[known..]].concat();
            let found = self.defined_in(&inside, depth + 1);
            if found.len() > glob.len() {
                return found;
            }
        }
        module
    }

    /// The paths in the text of `module`.
    fn paths(&self, module: &Module, text: &str) -> Vec<Named> {
        let mut found = Vec::new();
        let mut inline: Vec<String> = Vec::new();
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let code = without_comment(line);
            let head = code.trim_start();
            let indent = &code[..code.len() - head.len()];
            if head.starts_with("mod ") || head.contains(" mod ") && head.ends_with('{') {
                if head.ends_with('{') {
                    inline.push(format!("{indent}}}"));
                }
                continue;
            }
            if inline.last().is_some_and(|end| *end == code) {
                inline.pop();
                continue;
            }
            let visible = head.strip_prefix("pub").map_or(head, |rest| {
                let rest = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest);
                rest.trim_start()
            });
            if let Some(first) = visible.strip_prefix("use ") {
                let mut statement = first.to_owned();
                while !statement.contains(';') {
                    let Some((_, next)) = lines.next() else { break };
                    statement.push_str(without_comment(next).trim());
                }
                let tree = statement.split(';').next().unwrap_or_default();
                for (path, alias) in leaves(tree) {
                    if let Some(path) = self.resolved(module, inline.len(), &path) {
                        found.push(Named { path, alias, is_use: inline.is_empty(), line: number + 1 });
                    }
                }
                continue;
            }
            for start in ["crate::", "super::", "zimage::"] {
                for (at, _) in code.match_indices(start) {
                    let before = code[..at].chars().next_back();
                    if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '"') {
                        continue;
                    }
                    let end = code[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
                    let path = &code[at..end.map_or(code.len(), |end| at + end)];
                    let path: Vec<String> =
                        path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
                    if let Some(path) = self.resolved(module, inline.len(), &path) {
                        found.push(Named { path, alias: None, is_use: false, line: number + 1 });
                    }
                }
            }
        }
        found
    }

    /// A path from the crate's root; `None` for a path into another crate. `inline` is the number
    /// of inline modules around the path.
    fn resolved(&self, module: &Module, inline: usize, path: &[String]) -> Option<Module> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        if ups > 0 {
            let up = ups.saturating_sub(inline);
            let base = if ups < inline { module.len() } else { module.len().checked_sub(up)? };
            return Some([&module[..base], &path[ups..]].concat());
        }
        match path.first()?.as_str() {
            "crate" | "zimage" => Some(path[1..].to_vec()),
            "self" => Some([&module[..], &path[1..]].concat()),
            // The name of a child module.
            first => {
                let child = [&module[..], &[first.to_owned()]].concat();
                (inline == 0 && self.modules.contains(&child)).then(|| [&module[..], path].concat())
            }
        }
    }
}

fn read_files(folder: &Path, module: &Module, texts: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = |name: String| [&module[..], &[name]].concat();
        if path.is_dir() {
            read_files(&path, &inner(stem), texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let own = if stem == "mod" || stem == "lib" { module.clone() } else { inner(stem) };
            texts.insert(own, fs::read_to_string(&path).unwrap());
        }
    }
}

/// A line without its comment. A `//` inside a string also ends the line, which hides no path.
fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at]).trim_end()
}

/// The paths of a use tree, each with its alias.
fn leaves(tree: &str) -> Vec<(Module, Option<String>)> {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let prefix: Module =
            tree[..open].split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let close = tree.rfind('}').unwrap_or(tree.len());
        let mut all = Vec::new();
        let mut depth = 0;
        let mut start = open + 1;
        for (at, c) in tree.char_indices().skip_while(|(at, _)| *at <= open).chain([(close, ',')]) {
            match c {
                '{' => depth += 1,
                '}' if at < close => depth -= 1,
                ',' if depth == 0 && at <= close && start < at => {
                    for (path, alias) in leaves(&tree[start..at]) {
                        let path = if path == ["self"] { Vec::new() } else { path };
                        all.push(([&prefix[..], &path].concat(), alias));
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        return all;
    }
    let (path, alias) =
        tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim().to_owned())));
    let path: Module = path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if path.is_empty() { Vec::new() } else { vec![(path, alias)] }
}
