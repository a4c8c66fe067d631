//! What each dependency is for: whoever adds one says so in docs/architecture.md, and whoever reads the list need not guess.

use std::collections::BTreeSet;

use crate::run::{cargo, output, root};

/// All but tests' own have a line in the table.
#[test]
fn every_dependency_has_a_purpose() {
    let mut metadata = cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata = output("read cargo's metadata", &mut metadata).unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let dependencies = packages.iter().flat_map(|package| package["dependencies"].as_array().unwrap());
    // Ours have a path; tests' own are of the kind `dev`.
    let others = dependencies.filter(|d| d["path"].is_null() && d["kind"] != "dev");
    let used: BTreeSet<&str> = others.map(|d| d["name"].as_str().unwrap()).collect();
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, table) = page.split_once("| crate | what for |\n| --- | --- |\n").unwrap();
    let rows = table.lines().map_while(|line| line.strip_prefix("| ")?.split_once(" | "));
    let stated: Vec<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(stated, used.into_iter().collect::<Vec<_>>(), "sorted by name");
}
