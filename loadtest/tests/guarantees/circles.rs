//! No two files of a crate import each other, directly or round about.

use crate::architecture::{ROOT, code, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The code of each module, by its path with `::` behind each part.
type Modules = BTreeMap<String, String>;

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let functions = std::fs::read_dir(Path::new(ROOT).join("functions")).unwrap().map(|entry| entry.unwrap().path());
    let mut checked = 0;
    for folder in functions.chain(["shared", "loadtest"].map(|name| Path::new(ROOT).join(name))) {
        let source = folder.join("src");
        if source.is_dir() {
            let modules: Modules = sources(&source).iter().map(|path| (module(path), code(path))).collect();
            checked += modules.len();
            assert_eq!(circle(&modules), [""; 0], "{}: these import each other in a circle", source.display());
        }
    }
    assert!(checked > 50, "the files are where they were");
}

#[test]
fn a_circle_is_found_and_a_folder_is_one_room() {
    let size = |files: &[(&str, &str)]| {
        let modules = files.iter().map(|(path, code)| (module(&format!("x/src/{path}")), (*code).to_owned()));
        circle(&modules.collect()).len()
    };
    let round_about =
        [("a.rs", "use crate::b::B;"), ("b.rs", "use super::{c::C, d};"), ("c.rs", "use crate::{x, a::{A, B}};")];
    assert_eq!(size(&round_about), 3);
    assert_eq!(size(&round_about[..2]), 0);
    assert_eq!(size(&[("a/mod.rs", "pub use self::b::B;"), ("a/b.rs", "use super::Other;")]), 0, "its own folder");
    assert_eq!(size(&[("a/b.rs", "use super::c::C;"), ("a/c.rs", "use super::b::B;")]), 2);
}

/// `…/src/a/b.rs` is `a::b::`; `mod.rs`, `lib.rs` and `main.rs` are their folder.
fn module(path: &str) -> String {
    let path = path.split_once("/src/").expect("a source file").1.trim_end_matches(".rs");
    let parts = path.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    parts.map(|part| format!("{part}::")).collect()
}

/// The modules that one imports from. What a folder's own file takes from inside it, or gives to it, is one room.
fn imports<'a>(module: &str, modules: &'a Modules) -> BTreeSet<&'a str> {
    let above = |module: &str| module.trim_end_matches("::").rfind("::").map_or(0, |end| end + 2);
    let statements =
        modules[module].split(';').filter_map(|statement| statement.rsplit_once("use ").map(|(_, path)| path));
    let resolve = |path: String| {
        let (first, mut rest) = path.split_once("::")?;
        let mut at = match first {
            "crate" => String::new(),
            "self" => module.to_owned(),
            "super" => module[..above(module)].to_owned(),
            _ => return None,
        };
        while let Some(("super", further)) = rest.split_once("::") {
            at.truncate(above(&at));
            rest = further;
        }
        let target = format!("{at}{rest}::");
        modules
            .keys()
            .map(String::as_str)
            .filter(|known| !known.is_empty() && target.starts_with(known))
            .max_by_key(|known| known.len())
    };
    let targets = statements.flat_map(paths).filter_map(resolve);
    targets.filter(|target| !module.starts_with(target) && !target.starts_with(module)).collect()
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn paths(statement: &str) -> Vec<String> {
    let (mut before, mut at, mut paths) = (Vec::new(), String::new(), Vec::new());
    for letter in statement.chars().filter(|letter| !letter.is_whitespace()) {
        match letter {
            '{' => before.push(at.clone()),
            ',' | '}' => {
                paths.push(std::mem::take(&mut at));
                if letter == '}' {
                    before.pop();
                }
                at = before.last().cloned().unwrap_or_default();
            }
            letter => at.push(letter),
        }
    }
    paths.push(at);
    paths.retain(|path| !path.ends_with("::"));
    paths
}

/// Whoever is left when those who import nobody, or whom nobody imports, are taken away again and again.
fn circle(modules: &Modules) -> Vec<&str> {
    let edges: BTreeMap<&str, BTreeSet<&str>> =
        modules.keys().map(|module| (module.as_str(), imports(module, modules))).collect();
    let mut left: BTreeSet<&str> = edges.keys().copied().collect();
    loop {
        let imports = |module: &&str| edges[module].iter().any(|other| left.contains(other));
        let is_imported = |module: &&str| left.iter().any(|other| edges[other].contains(module));
        let next: BTreeSet<&str> =
            left.iter().copied().filter(|module| imports(module) && is_imported(module)).collect();
        if next.len() == left.len() {
            return left.into_iter().collect();
        }
        left = next;
    }
}
