//! What the documents point at is there: files, headings, test names.

use crate::architecture::{ROOT, tracked};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What one reads in one sitting.
const README_LINES_MAX: usize = 220;
const README_BYTES_MAX: usize = 18 * 1024;

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut links = 0;
    for document in tracked(".md") {
        let folder = Path::new(&document).parent().unwrap();
        for link in links_of(&read(&document)) {
            links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { Path::new(&document).to_path_buf() } else { folder.join(path) };
            assert!(Path::new(ROOT).join(&target).exists(), "{document}: {link} leads nowhere");
            let is_heading = || headings(&read(&target.to_string_lossy())).contains(anchor);
            assert!(anchor.is_empty() || is_heading(), "{document}: {link} is no heading");
        }
    }
    assert!(links > 30, "links are found");
    assert_eq!(links_of("[a](b.md#c), `[no](code)`, [d](https://x) and\n```\n[e](f)\n```\n[g](h)"), ["b.md#c", "h"]);
    assert!(headings("# A b, `c`\n").contains("a-b-c"));
}

#[test]
fn every_test_and_file_that_the_guarantees_name_exists() {
    let readme = read("README.md");
    let section = readme.split("\n## ").find(|section| section.starts_with("Guarantees")).unwrap();
    let is_numbered = |line: &&str| line.split('|').nth(1).is_some_and(|cell| cell.trim().parse::<u32>().is_ok());
    assert_eq!(section.lines().filter(is_numbered).count(), 16, "sixteen guarantees");
    let code: String = tracked(".rs").iter().map(|path| read(path)).collect();
    for line in section.lines() {
        // Of a guarantee, what tests it; of what is said around them, all.
        let named = if is_numbered(&line) { line.trim_end_matches('|').rsplit_once('|').unwrap().1 } else { line };
        let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        assert!(!(is_numbered(&line) && names.is_empty()), "nothing tests it: {line}");
        for name in names {
            let path = name.replace("G/", "loadtest/tests/guarantees/");
            let exists = if name.contains(['/', '.']) {
                Path::new(ROOT).join(path).exists()
            } else {
                code.contains(&format!("fn {name}("))
            };
            assert!(exists, "there is no {name}: {line}");
        }
    }
}

#[test]
fn the_readme_is_read_in_one_sitting() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= README_LINES_MAX && readme.len() <= README_BYTES_MAX);
}

/// Links to what is not on the web, outside code.
fn links_of(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).flat_map(|prose| prose.split('`').step_by(2)).collect();
    let targets =
        prose.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target.to_owned()));
    targets.filter(|target| !target.contains("://")).collect()
}

/// As GitHub makes anchors of them.
fn headings(text: &str) -> BTreeSet<String> {
    let headings = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let is_kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings.map(|heading| heading.chars().filter(is_kept).collect::<String>().replace(' ', "-")).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}
