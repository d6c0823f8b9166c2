//! The walks of `docs/architecture.md` name files and functions that exist, and no table of a walk names a
//! file twice.
//!
//! A row names its file in the second column. A function in a later column belongs to the file named before
//! it in that column, or to the file of the row. A function in the text belongs to any file of `core` or `uring`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fails if a file or a function of a walk is renamed or moved, or if a table names a file twice (each seen
/// failing).
#[test]
fn the_walks_name_what_exists() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut files = Files::default();
    for name in ["core", "uring"] {
        files.read(&format!("{name}/src"));
    }
    let walks = &text[text.find("## Walk 1").unwrap()..];
    assert!(walks.lines().filter(|line| cells(line).is_some()).count() > 40, "no rows");
    let mut faults = files.faults(walks);
    for file in spans(&text).filter(|it| is_file(it)) {
        let is_there = root().join(file).exists() || !files.named(file).is_empty();
        faults.extend((!is_there).then(|| format!("no file {file}")));
    }
    assert!(faults.is_empty(), "docs/architecture.md:\n{}", faults.join("\n"));
}

/// Fails if one of these faults is overlooked (each seen failing).
#[test]
fn what_does_not_exist_is_found() {
    let mut files = Files::default();
    let queue = "struct Queue; enum Way { In } impl Queue { fn put() {} } impl Wake for Queue { fn wake() {} }";
    files.add("core/src/queue.rs", queue);
    files.add("core/src/ring.rs", "fn swap() {} #[cfg(test)] mod tests { fn only() {} }");
    files.add("uring/src/ring.rs", "trait Turn { fn turn(); }");
    for right in [
        "| 1 | `core/src/queue.rs` | `Queue::put`, `put`, `Way::In` | `core/src/ring.rs`: `swap` |",
        "| 1 | `uring/src/ring.rs` | `Turn::turn` | `queue.rs`: `Queue::wake`, `Wake::wake` |",
        "The `Queue` of `queue.rs` has `put` and `swap()`, by `send().await`.",
        "| 1 | `core/src/queue.rs` | |\n| 2 | `core/src/ring.rs` | |\n\n| 1 | `core/src/queue.rs` | |",
    ] {
        assert_eq!(files.faults(right), [""; 0], "{right}");
    }
    for wrong in [
        "| 1 | `core/src/gone.rs` | |",
        "| 1 | `core/src/queue.rs` | `swap` |",
        "| 1 | `core/src/queue.rs` | `Queue::swap` |",
        "| 1 | `core/src/queue.rs` | `put` | `core/src/ring.rs`: `put` |",
        "| 1 | `core/src/queue.rs` | | `ring.rs` |",
        "| 1 | `core/src/ring.rs` | `only` |",
        "| 1 | `core/src/queue.rs` | |\n| 2 | `core/src/queue.rs` | |",
        "It is in `gone.rs`.",
        "It is in `ue.rs`.",
        "It calls `gone`.",
        "It calls `Queue::gone`.",
    ] {
        assert_eq!(files.faults(wrong).len(), 1, "{wrong}");
    }
}

/// The names that each file defines, by its path: of functions, types and variants, alone and after the type or
/// trait that they belong to.
#[derive(Default)]
struct Files(BTreeMap<String, BTreeSet<String>>);

impl Files {
    fn read(&mut self, folder: &str) {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                self.read(&path);
            } else if is_file(&path) {
                self.add(&path, &fs::read_to_string(entry.path()).unwrap());
            }
        }
    }

    fn add(&mut self, path: &str, source: &str) {
        let mut names = Names::default();
        names.visit_file(&syn::parse_file(source).unwrap());
        self.0.insert(path.to_owned(), names.found);
    }

    /// The files whose paths end with `name`.
    fn named(&self, name: &str) -> Vec<&str> {
        let is_it = |path: &&String| {
            path.strip_suffix(name).is_some_and(|it| it.is_empty() || it.ends_with('/'))
        };
        self.0.keys().filter(is_it).map(|path| &**path).collect()
    }

    /// What is wrong in the tables and the text of `walks`.
    fn faults(&self, walks: &str) -> Vec<String> {
        let (mut faults, mut entered) = (Vec::new(), BTreeSet::new());
        for line in walks.lines() {
            let Some(row) = cells(line) else {
                if !line.starts_with('|') {
                    entered.clear();
                }
                if !line.starts_with('#') {
                    self.add_faults(None, line, &mut faults);
                }
                continue;
            };
            let [_, file, rest @ ..] = &*row else { continue };
            let file = file.trim().trim_matches('`');
            if !entered.insert(file.to_owned()) {
                faults.push(format!("a table names {file} twice"));
            }
            if self.0.contains_key(file) {
                rest.iter().for_each(|cell| self.add_faults(Some(file), cell, &mut faults));
            } else {
                faults.push(format!("no file {file}"));
            }
        }
        faults
    }

    fn add_faults(&self, row: Option<&str>, text: &str, faults: &mut Vec<String>) {
        let mut file = row;
        for name in spans(text) {
            if is_file(name) {
                match *self.named(name) {
                    [only] => file = row.map(|_| only),
                    // The text names one of the files that a table has told apart.
                    [_, ..] if row.is_none() => {}
                    _ => faults.push(format!("{name} is the name of no file, or of several")),
                }
            } else if is_name(name) {
                let name = name.trim_end_matches("()");
                let is_in = |file: &str| self.0[file].contains(name);
                let is_there = match file {
                    Some(file) => is_in(file),
                    None => self.0.keys().any(|file| is_in(file)),
                };
                if !is_there {
                    faults.push(format!("no {name} in {}", file.unwrap_or("any file")));
                }
            }
        }
    }
}

/// The cells of a numbered row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix('|')?.trim_end().strip_suffix('|')?;
    let cells: Vec<_> = row.split('|').collect();
    cells[0].trim().parse::<u32>().ok().map(|_| cells)
}

/// What stands between backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_file(span: &str) -> bool {
    Path::new(span).extension().is_some_and(|it| it == "rs")
}

/// Whether a span is the name of a function or a type.
fn is_name(span: &str) -> bool {
    let span = span.strip_suffix("()").unwrap_or(span);
    !span.is_empty() && span.chars().all(|it| it.is_alphanumeric() || it == '_' || it == ':')
}

#[derive(Default)]
struct Names {
    /// The types and traits around the item that is visited.
    around: Vec<String>,
    found: BTreeSet<String>,
}

impl Names {
    fn add(&mut self, name: &syn::Ident) {
        self.found.insert(name.to_string());
        self.found.extend(self.around.iter().map(|it| format!("{it}::{name}")));
    }

    fn within(&mut self, around: Vec<String>, visit: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.around, around);
        visit(self);
        self.around = before;
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_for_tests = |it: &syn::Attribute| match &it.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => {
                let tokens = list.tokens.to_string();
                tokens == "test" || tokens.starts_with("all (test")
            }
            _ => false,
        };
        if !module.attrs.iter().any(is_for_tests) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig.ident);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig.ident);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.add(&function.sig.ident);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add(&item.ident);
        let around = vec![item.ident.to_string()];
        self.within(around, |it| item.variants.iter().for_each(|variant| it.add(&variant.ident)));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.add(&item.ident);
        self.within(vec![item.ident.to_string()], |it| visit::visit_item_trait(it, item));
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of_trait = item.trait_.as_ref().map(|(_, path, _)| path);
        let of_type = match &*item.self_ty {
            syn::Type::Path(it) => Some(&it.path),
            _ => None,
        };
        let last = |path: &syn::Path| path.segments.last().map(|it| it.ident.to_string());
        let around = [of_trait, of_type].into_iter().flatten().filter_map(last).collect();
        self.within(around, |it| visit::visit_item_impl(it, item));
    }
}
