//! No two files of a crate import each other, directly or round about.

use crate::architecture::{ROOT, code, sources};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

type Module = Vec<String>;

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let functions = std::fs::read_dir(Path::new(ROOT).join("functions")).unwrap();
    let folders = functions
        .map(|entry| entry.unwrap().path())
        .chain(["shared", "loadtest"].map(|name| Path::new(ROOT).join(name)));
    let mut checked = 0;
    for source in folders.map(|folder| folder.join("src")).filter(|source| source.is_dir()) {
        let files: BTreeMap<Module, String> = sources(&source).iter().map(|path| (module(path), code(path))).collect();
        checked += files.len();
        let circle =
            circle(&files.iter().map(|(module, code)| (module.clone(), imports(module, code, &files))).collect());
        assert!(circle.is_empty(), "{}: these import each other in a circle: {circle:?}", source.display());
    }
    assert!(checked > 50, "the files are where they were");
}

#[test]
fn a_circle_is_found_and_a_folder_is_one_room() {
    let circle_of = |files: &[(&str, &str)]| {
        let files: BTreeMap<Module, String> =
            files.iter().map(|(path, code)| (module(&format!("x/src/{path}")), (*code).to_owned())).collect();
        circle(&files.iter().map(|(module, code)| (module.clone(), imports(module, code, &files))).collect()).len()
    };
    let round_about =
        [("a.rs", "use crate::b::B;"), ("b.rs", "use super::{c::C, d};"), ("c.rs", "use crate::{x, a::{A, B}};")];
    assert_eq!(circle_of(&round_about), 3);
    assert_eq!(circle_of(&round_about[..2]), 0);
    assert_eq!(circle_of(&[("a/mod.rs", "pub use self::b::B;"), ("a/b.rs", "use super::Other;")]), 0, "its own folder");
    assert_eq!(circle_of(&[("a/b.rs", "use super::c::C;"), ("a/c.rs", "use super::b::B;")]), 2);
}

/// `…/src/a/b.rs` is `a::b`; `mod.rs`, `lib.rs` and `main.rs` are their folder.
fn module(path: &str) -> Module {
    let path = path.split_once("/src/").expect("a source file").1.trim_end_matches(".rs");
    let mut parts: Module = path.split('/').map(ToOwned::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The modules that a file imports from. What a folder's own file takes from inside it, or gives to it, is one room.
fn imports(module: &Module, code: &str, files: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let statements = code.split(';').filter_map(|statement| statement.rsplit_once("use ").map(|(_, path)| path));
    let paths = statements.flat_map(|path| expand(&path.split_whitespace().collect::<Vec<_>>().join(" ")));
    let mut imported = BTreeSet::new();
    for path in paths {
        let mut at: Option<Module> = None;
        for part in path.split("::") {
            match (part, &mut at) {
                ("crate", _) => at = Some(Module::new()),
                ("super", Some(at)) => drop(at.pop()),
                ("super", none) => *none = Some(module[..module.len().saturating_sub(1)].to_vec()),
                ("self", none) => *none = Some(module.clone()),
                (name, Some(at)) => at.push(name.to_owned()),
                (_, None) => break,
            }
        }
        let Some(mut target) = at else { continue };
        while !target.is_empty() && !files.contains_key(&target) {
            target.pop();
        }
        if !target.is_empty() && !module.starts_with(&target) && !target.starts_with(module) {
            imported.insert(target);
        }
    }
    imported
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn expand(path: &str) -> Vec<String> {
    let Some((before, inside)) = path.split_once('{') else { return vec![path.replace(' ', "")] };
    let inside = inside.rsplit_once('}').map_or(inside, |(inside, _)| inside);
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (place, letter) in inside.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[start..place]);
                start = place + 1;
            }
            _ => (),
        }
    }
    parts.push(&inside[start..]);
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(|part| expand(&format!("{before}{part}"))).collect()
}

/// Whoever is left when those who import nobody, or whom nobody imports, are taken away again and again.
fn circle(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    let mut left: BTreeSet<&Module> = edges.keys().collect();
    loop {
        let imports = |module: &Module| edges[module].iter().any(|other| left.contains(other));
        let is_imported = |module: &Module| left.iter().any(|other| edges[*other].contains(module));
        let next: BTreeSet<&Module> =
            left.iter().copied().filter(|module| imports(module) && is_imported(module)).collect();
        if next.len() == left.len() {
            return left.into_iter().map(|module| module.join("::")).collect();
        }
        left = next;
    }
}
