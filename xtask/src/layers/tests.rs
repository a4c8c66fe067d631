use std::path::Path;

use serde_json::Value;

use super::{Imports, imports, in_circles};
use crate::run::{cargo, output, root};

/// As `a.rs -> b.rs: crate::b::B`, by the files' places in a folder.
fn told(imports: &Imports, folder: &Path) -> Vec<String> {
    let short = |file: &str| Path::new(file).strip_prefix(folder).unwrap().display().to_string();
    imports.iter().map(|((from, to), path)| format!("{} -> {}: {path}", short(from), short(to))).collect()
}

/// The packages of the workspace.
fn packages() -> Vec<Value> {
    let mut metadata = cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&output("the packages", &mut metadata).unwrap()).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn no_files_import_each_other() {
    let mut circles = Vec::new();
    for package in packages() {
        for target in package["targets"].as_array().unwrap() {
            let imports = imports(Path::new(target["src_path"].as_str().unwrap()));
            circles.extend(told(&in_circles(&imports), &root()));
        }
    }
    assert!(circles.is_empty(), "imports in circles:\n{}", circles.join("\n"));
}

/// The library and the virtual GPU stand by themselves: neither needs a package of the other's. The library's tests name the
/// virtual driver's failing calls.
#[test]
fn neither_the_library_nor_the_virtual_gpu_needs_another_package() {
    let ptxsim = root().join("ptxsim");
    let mut seen = 0;
    for package in packages() {
        let is_ptxsim = Path::new(package["manifest_path"].as_str().unwrap()).starts_with(&ptxsim);
        if !is_ptxsim && package["name"] != "onekv" {
            continue;
        }
        seen += 1;
        let needed = package["dependencies"].as_array().unwrap().iter();
        let strange: Vec<_> = needed
            .filter(|needed| is_ptxsim || needed["kind"] != "dev" || needed["name"] != "ptxsim-failing")
            .filter_map(|needed| needed["path"].as_str())
            .filter(|path| !is_ptxsim || !Path::new(path).starts_with(&ptxsim))
            .collect();
        assert!(strange.is_empty(), "{} needs {strange:?}", package["name"]);
    }
    assert!(seen > 1);
}

/// The imports in circles of a crate of these files, the first its root.
fn circles(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let file = folder.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    told(&in_circles(&imports(&folder.path().join(files[0].0))), folder.path())
}

#[test]
fn circles_are_found() {
    let none: [&str; 0] = [];
    let root = ("lib.rs", "mod a; mod b; mod c;");
    let b = ("b.rs", "use crate::c; pub struct B;");
    // Of two and of three, by whatever path.
    let two = ["a.rs -> b.rs: crate::b::B", "b.rs -> a.rs: super::a::one"];
    let back = ("b.rs", "fn two() { super::a::one() } pub struct B;");
    assert_eq!(circles(&[root, ("a.rs", "use crate::b::B; fn one() {}"), back, ("c.rs", "")]), two);
    let in_macro = ("a.rs", "fn one() { assert!(crate::b::B == 1) }");
    assert_eq!(circles(&[root, in_macro, back, ("c.rs", "")]), two);
    let three = circles(&[root, ("a.rs", "use crate::b::B;"), b, ("c.rs", "fn c() { crate::a::one() }")]);
    assert_eq!(three, ["a.rs -> b.rs: crate::b::B", "b.rs -> c.rs: crate::c", "c.rs -> a.rs: crate::a::one"]);
    // What is beside a circle is not in it.
    assert_eq!(circles(&[root, ("a.rs", "use crate::b::B;"), b, ("c.rs", "use std::fmt;")]), none);

    // Parent and child: exported alone, and used too.
    let child = ("a/x.rs", "use super::A; pub struct X(A);");
    let (export, a) = ("mod x; pub use x::X; pub struct A;", "a/mod.rs");
    assert_eq!(circles(&[("lib.rs", "mod a;"), (a, export), child]), none);
    let both = ["a/mod.rs -> a/x.rs: X", "a/x.rs -> a/mod.rs: super::A"];
    let used = format!("{export} fn of(x: X) {{}}");
    assert_eq!(circles(&[("lib.rs", "mod a;"), (a, &used), child]), both);
    let used = used.replace("x::X", "x::*");
    assert_eq!(circles(&[("lib.rs", "mod a;"), (a, &used), child]), both);
    // Who takes what the parent exports has it from the child.
    let parent = ("a/mod.rs", "mod x; mod y; pub use x::X; use y::Y;");
    let other = ("a/y.rs", "use super::X; pub struct Y(X);");
    assert_eq!(circles(&[("lib.rs", "mod a;"), parent, ("a/x.rs", "pub struct X;"), other]), none);

    // Tests may.
    let tests = "use crate::b::B; fn one() {}";
    let test = (
        "b.rs",
        "pub struct B; #[cfg(test)] mod tests { use crate::a::one; } #[test] fn t() { crate::a::one() }",
    );
    assert_eq!(circles(&[root, ("a.rs", tests), test, ("c.rs", "")]), none);
}
