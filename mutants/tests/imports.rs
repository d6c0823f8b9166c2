//! No two files of a crate import each other, directly or through others.
//!
//! An import is any path in one file that leads to a module in another file of its crate, in a `use` or
//! in the code. Code for tests alone does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The crates of the repository.
const CRATES: [&str; 9] =
    ["benches", "cli", "core", "kill-tests", "loom-tests", "meet", "mutants", "python", "uring"];

/// Fails if one file imports another that leads back to it (seen failing with the import of `Port` put
/// back into core's `ring/slots.rs`, of `Wait` into python's `waiter.rs`, and of `pairs` into the benches'
/// `process.rs`).
#[test]
fn no_two_files_of_a_crate_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for name in CRATES {
        let files = Files::read(&root.join(name).join("src"));
        assert!(!files.0.is_empty(), "{name} has no files");
        for circle in files.circles() {
            found.push(format!("{name}: {}", circle.join(", ")));
        }
    }
    assert!(found.is_empty(), "files that import each other:\n{}", found.join("\n"));
}

/// Fails if a way to name another file is overlooked, or if a program is taken for its library (each seen
/// failing).
#[test]
fn a_file_is_imported_by_any_path_to_it() {
    for import in [
        "use crate::b::B;",
        "use super::b;",
        "use crate::{c, b::{self, B}};",
        "fn f() -> crate::b::B { todo!() }",
        "mod inner { use super::super::b::B; }",
        "fn f() { debug_assert!(crate::b::is()); }",
    ] {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; pub use a::A;"),
            ("a.rs", import),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a;"),
        ];
        assert_eq!(Files::of(&files).circles(), [["a.rs", "b.rs", "c.rs"]], "{import}");
    }
    // Through the root, which imports the module.
    let files = [("lib.rs", "mod a; pub use a::A;"), ("a.rs", "use crate::B;")];
    assert_eq!(Files::of(&files).circles(), [["a.rs", "lib.rs"]]);
    let files =
        [("lib.rs", "mod a;"), ("main.rs", "fn main() { a::run() }"), ("a.rs", "use crate::B;")];
    assert!(Files::of(&files).circles().is_empty());
    let files = [("lib.rs", "mod a;"), ("a.rs", "#[cfg(test)] mod tests { use crate::A; }")];
    assert!(Files::of(&files).circles().is_empty());
}

/// The files of a crate, by their paths under `src`, with the files that each imports.
struct Files(BTreeMap<String, BTreeSet<String>>);

impl Files {
    fn read(source: &Path) -> Self {
        let mut texts = Vec::new();
        let mut folders = vec![source.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path: PathBuf = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|it| it == "rs") {
                    let name = path.strip_prefix(source).unwrap().to_str().unwrap().to_owned();
                    texts.push((name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let texts: Vec<_> = texts.iter().map(|(name, text)| (&**name, &**text)).collect();
        Self::of(&texts)
    }

    fn of(texts: &[(&str, &str)]) -> Self {
        // A program beside a library is a crate of its own: no file of the library can import it.
        let has_library = texts.iter().any(|(name, _)| *name == "lib.rs");
        let texts = || texts.iter().filter(|(name, _)| !(has_library && *name == "main.rs"));
        let modules: BTreeMap<_, _> =
            texts().map(|(name, _)| (module_of(name), (*name).to_owned())).collect();
        let imports = texts().map(|(name, text)| {
            let mut imports =
                Imports { modules: &modules, at: module_of(name), found: BTreeSet::new() };
            imports.visit_file(&syn::parse_file(text).unwrap());
            imports.found.remove(*name);
            ((*name).to_owned(), imports.found)
        });
        Self(imports.collect())
    }

    /// The largest sets of files in which each file leads to all others.
    fn circles(&self) -> Vec<Vec<String>> {
        let reached: BTreeMap<_, _> =
            self.0.keys().map(|name| (name, self.reached(name))).collect();
        let circle = |name| {
            let is_back = |other: &&String| reached[*other].contains(name);
            reached[name].iter().filter(is_back).cloned().collect::<Vec<_>>()
        };
        let circles: BTreeSet<_> = self.0.keys().map(circle).filter(|it| !it.is_empty()).collect();
        circles.into_iter().collect()
    }

    /// The files that `name` leads to.
    fn reached(&self, name: &str) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut next = vec![name];
        while let Some(name) = next.pop() {
            next.extend(
                self.0[name].iter().filter(|it| reached.insert((*it).clone())).map(|it| &**it),
            );
        }
        reached
    }
}

fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap();
    let mut module: Vec<_> = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|it| ["lib", "main", "mod"].contains(&it.as_str())) {
        module.pop();
    }
    module
}

/// The imports of one file.
struct Imports<'a> {
    /// The files of all modules that have one.
    modules: &'a BTreeMap<Vec<String>, String>,
    /// The module that is visited.
    at: Vec<String>,
    found: BTreeSet<String>,
}

impl Imports<'_> {
    /// A path of an expression, a type or a macro.
    fn add_path(&mut self, path: &[String]) {
        // A name alone leads to no other file.
        if path.len() > 1 {
            self.add(path);
        }
    }

    fn add(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        let mut module = match first.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.at.clone(),
            child => {
                let child = [&*self.at, &[child.to_owned()]].concat();
                if !self.modules.contains_key(&child) {
                    return;
                }
                self.at.clone()
            }
        };
        for name in path {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(module.pop()),
                name => module.push(name.to_owned()),
            }
        }
        while !self.modules.contains_key(&module) {
            module.pop();
        }
        self.found.insert(self.modules[&module].clone());
    }

    fn add_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(it) => self.add_tree(&with(&it.ident), &it.tree),
            syn::UseTree::Name(it) => self.add(&with(&it.ident)),
            syn::UseTree::Rename(it) => self.add(&with(&it.ident)),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(it) => it.items.iter().for_each(|it| self.add_tree(before, it)),
        }
    }

    /// The paths in the arguments of a macro, which syn does not parse.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut is_joined = false;
        for token in tokens {
            match token {
                TokenTree::Ident(name) if is_joined || path.is_empty() => {
                    path.push(name.to_string());
                    is_joined = false;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    is_joined = true;
                    continue;
                }
                TokenTree::Ident(name) => {
                    self.add_path(&std::mem::replace(&mut path, vec![name.to_string()]));
                    continue;
                }
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            self.add_path(&std::mem::take(&mut path));
            is_joined = false;
        }
        self.add_path(&path);
    }
}

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.content.is_some() && !is_for_tests(&module.attrs) {
            self.at.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.at.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.add_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        self.add_path(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.add_tokens(invocation.tokens.clone());
    }
}

/// Whether a `cfg` says that something is built for tests alone.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let tokens = list.tokens.to_string();
        list.path.is_ident("cfg") && (tokens == "test" || tokens.starts_with("all (test"))
    })
}
