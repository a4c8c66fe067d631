//! No mutual imports: in no crate of the workspace do files import each other in a circle.
//!
//! A file imports another where it names what that one defines, in a `use`, in any other path, in a macro. A `use` that others
//! name stands for what it names: they import the file that defines it. `mod` and `pub use` by themselves import nothing.
//! Parent and child are files like any: where a child names what its parent defines, the parent may declare the child and
//! export what it has, but not use it. Tests are left out; methods are not seen, since to call one takes no import.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, Meta, UseTree, Visibility};

mod tests;

type Names = Vec<String>;
/// From file to file, and a path that makes it so.
type Imports = BTreeMap<(String, String), String>;

#[derive(Default)]
struct Module {
    file: PathBuf,
    /// Where its children's files are.
    folder: PathBuf,
    parent: usize,
    children: BTreeMap<String, usize>,
    defined: BTreeSet<String>,
    /// What names stand for by a `use`; `*` is any.
    used: Vec<(String, Names)>,
    /// All paths but those that it exports.
    named: Vec<Names>,
}

/// The modules of a crate, its root first, and the one that is being read.
#[derive(Default)]
struct Crate {
    modules: Vec<Module>,
    here: usize,
}

/// What the files of a crate import of each other.
fn imports(root: &Path) -> Imports {
    let mut all = Crate::default();
    all.file(root, root.parent().unwrap());
    let mut imports = Imports::new();
    for (from, module) in all.modules.iter().enumerate() {
        for path in &module.named {
            // A single name may be a variable's, or the `crate` of `pub(crate)`.
            if path.len() == 1
                && (module.children.contains_key(&path[0]) || path[0] == "crate" || path[0] == "super")
            {
                continue;
            }
            let to = all.owner(from, path).map(|to| &all.modules[to].file);
            if let Some(to) = to.filter(|to| **to != module.file) {
                let edge = [&module.file, to].map(|file| file.display().to_string());
                imports.entry(edge.into()).or_insert_with(|| path.join("::"));
            }
        }
    }
    imports
}

/// The imports that lie in a circle.
fn in_circles(imports: &Imports) -> Imports {
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (first, _) in imports.keys() {
        if reached.contains_key(first.as_str()) {
            continue;
        }
        let (mut seen, mut next) = (BTreeSet::new(), vec![first]);
        while let Some(file) = next.pop() {
            let from_file = imports.range((file.clone(), String::new())..).map(|(edge, _)| edge);
            let of_file = from_file.take_while(|(from, _)| from == file).map(|(_, to)| to);
            next.extend(of_file.filter(|to| seen.insert(to.as_str())));
        }
        reached.insert(first, seen);
    }
    let is_back = |from: &str, to: &str| reached.get(to).is_some_and(|seen| seen.contains(from));
    imports.clone().into_iter().filter(|((from, to), _)| is_back(from, to)).collect()
}

impl Crate {
    fn file(&mut self, file: &Path, folder: &Path) -> usize {
        // What is not where modules are is another crate's too, by `#[path]`, and names nothing of this one.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut source = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.module(file, folder, |all| all.visit_file_mut(&mut source))
    }

    fn module(&mut self, file: &Path, folder: &Path, read: impl FnOnce(&mut Self)) -> usize {
        let (new, parent) = (self.modules.len(), self.here);
        self.modules.push(Module { file: file.into(), folder: folder.into(), parent, ..Module::default() });
        self.here = new;
        read(self);
        self.here = parent;
        new
    }

    /// The module that has what a path in module `from` names; none where that is a local thing or another crate's.
    fn owner(&self, from: usize, path: &[String]) -> Option<usize> {
        let mut at = from;
        for (i, name) in path.iter().enumerate() {
            let Module { parent, children, defined, used, .. } = &self.modules[at];
            at = match name.as_str() {
                "crate" => 0,
                "self" => at,
                "super" => *parent,
                _ if children.contains_key(name) => children[name],
                _ if defined.contains(name) => return Some(at),
                _ => {
                    if let Some((_, to)) = used.iter().find(|(alias, to)| alias == name && to[0] != *name) {
                        return self.owner(at, &[to, &path[i + 1..]].concat());
                    }
                    let own =
                        |to: &str| ["crate", "self", "super"].contains(&to) || children.contains_key(to);
                    let globs = used.iter().filter(|(alias, to)| alias == "*" && own(&to[0]));
                    let mut all_of = globs.filter_map(|(_, to)| self.owner(at, to));
                    let has = all_of.find(|of| self.modules[*of].defined.contains(name));
                    // What a macro defines is the module's own.
                    return has.or((i > 0).then_some(at));
                }
            };
        }
        Some(at)
    }

    fn uses(&mut self, tree: &UseTree, before: &[String], exported: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (alias, path) = match tree {
            UseTree::Path(path) => return self.uses(&path.tree, &with(&path.ident), exported),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.uses(tree, before, exported));
            }
            UseTree::Glob(_) => ("*".into(), before.to_vec()),
            UseTree::Name(name) if name.ident == "self" => {
                (before[before.len() - 1].clone(), before.to_vec())
            }
            UseTree::Name(name) => (name.ident.to_string(), with(&name.ident)),
            UseTree::Rename(name) => (name.rename.to_string(), with(&name.ident)),
        };
        let module = &mut self.modules[self.here];
        if !exported {
            module.named.push(path.clone());
        }
        module.used.push((alias, path));
    }

    /// The paths in a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut paths, mut colons) = (vec![Names::new()], 0);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(name) if colons == 2 => paths.last_mut().unwrap().push(name.to_string()),
                TokenTree::Ident(name) => paths.push(vec![name.to_string()]),
                TokenTree::Group(group) => self.tokens(group.stream()),
                _ => paths.push(Names::new()),
            }
            colons = 0;
        }
        self.modules[self.here].named.extend(paths.into_iter().filter(|path| path.len() > 1));
    }
}

impl VisitMut for Crate {
    fn visit_item_mut(&mut self, item: &mut Item) {
        let (attributes, name): (&[Attribute], _) = match item {
            Item::Const(it) => (&it.attrs, Some(&it.ident)),
            Item::Enum(it) => (&it.attrs, Some(&it.ident)),
            Item::Fn(it) => (&it.attrs, Some(&it.sig.ident)),
            Item::Impl(it) => (&it.attrs, None),
            Item::Macro(it) => (&it.attrs, it.ident.as_ref()),
            Item::Mod(it) => (&it.attrs, None),
            Item::Static(it) => (&it.attrs, Some(&it.ident)),
            Item::Struct(it) => (&it.attrs, Some(&it.ident)),
            Item::Trait(it) => (&it.attrs, Some(&it.ident)),
            Item::Type(it) => (&it.attrs, Some(&it.ident)),
            Item::Use(it) => (&it.attrs, None),
            _ => (&[], None),
        };
        let is_test = |attribute: &Attribute| match &attribute.meta {
            Meta::List(cfg) => cfg.path.is_ident("cfg") && cfg.tokens.to_string() == "test",
            meta => meta.path().is_ident("test"),
        };
        if !attributes.iter().any(is_test) {
            self.modules[self.here].defined.extend(name.map(|name| name.to_string()));
            visit_mut::visit_item_mut(self, item);
        }
    }

    fn visit_item_mod_mut(&mut self, item: &mut ItemMod) {
        let Module { file, folder, .. } = &self.modules[self.here];
        let (file, folder) = (file.clone(), folder.join(item.ident.to_string()));
        let child = if item.content.is_some() {
            self.module(&file, &folder, |all| visit_mut::visit_item_mod_mut(all, item))
        } else {
            let beside = folder.with_extension("rs");
            let own = if beside.exists() { beside } else { folder.join("mod.rs") };
            self.file(&own, &folder)
        };
        self.modules[self.here].children.insert(item.ident.to_string(), child);
    }

    fn visit_item_use_mut(&mut self, item: &mut ItemUse) {
        self.uses(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_path_mut(&mut self, path: &mut syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.modules[self.here].named.push(names);
        visit_mut::visit_path_mut(self, path);
    }

    fn visit_macro_mut(&mut self, item: &mut Macro) {
        self.visit_path_mut(&mut item.path);
        self.tokens(item.tokens.clone());
    }
}
