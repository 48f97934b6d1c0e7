//! openapi.yaml says what the code does: paths, methods, and the codes of problems with their statuses.

use crate::problem::ALL;
use saphyr::{LoadableYamlNode, Yaml};
use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../openapi.yaml");
const METHODS: [&str; 3] = ["get", "post", "delete"];

/// `METHOD PATH` of each route of the door, as they are written where they are made; pages are for people.
fn routed() -> BTreeSet<String> {
    let code = include_str!("lib.rs");
    let routes = code.split(".route(\"").skip(1).filter_map(|rest| rest.split_once("\", "));
    let named = routes.flat_map(|(path, handler)| {
        let handler = handler.split('\n').next().unwrap_or_default();
        let methods = METHODS.into_iter().filter(move |method| handler.contains(&format!("{method}(")));
        methods.map(move |method| format!("{method} {path}"))
    });
    named.filter(|route| route != "get /").collect()
}

#[test]
fn every_path_with_its_methods_and_every_code_with_its_status_is_described_and_nothing_else() {
    let [document] = &Yaml::load_from_str(DOCUMENT).unwrap()[..] else { panic!("one document") };
    let paths = document.as_mapping_get("paths").unwrap().as_mapping().unwrap();
    let described: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, operations)| {
            let names = operations.as_mapping().unwrap().keys().map(|name| name.as_str().unwrap());
            let methods = names.filter(|name| METHODS.contains(name));
            methods.map(|method| format!("{method} {}", path.as_str().unwrap())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(described, routed());
    assert!(described.len() > 10, "routes are found");
    // The last ones of the table are the board's.
    let board = ALL.iter().position(|(_, _, code, ..)| *code == "no_password").unwrap();
    let listed = DOCUMENT.lines().filter_map(|line| line.trim_start().strip_prefix("- ")?.split_once(" # "));
    let codes: Vec<String> = listed.map(|(code, status)| format!("{code} {status}")).collect();
    assert_eq!(codes, ALL[..board].iter().map(|(_, status, code, ..)| format!("{code} {status}")).collect::<Vec<_>>());
}
