//! The places where the shipped code names a memory ordering, and how each ordering can be weaker.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::argued::Named;

const ORDERINGS: [&str; 4] = ["SeqCst", "AcqRel", "Acquire", "Release"];

/// One ordering, one step weaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// Under `core/src`.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The edges that the comment beside it names.
    pub(crate) edge: String,
    /// The function that it is in.
    pub(crate) function: String,
    /// The call in one line.
    pub(crate) call: String,
    /// Which of its orderings: `success` and `failure` of a compare-exchange have names.
    role: &'static str,
    from: String,
    /// The weaker ordering; `none` for a fence that is removed.
    to: &'static str,
    /// The text to replace, and the new text.
    range: Range<usize>,
    text: &'static str,
    /// Whether the models are built with this code.
    pub(crate) is_in_models: bool,
}

impl Named for Mutant {
    fn change(&self) -> String {
        format!("{}{} to {}", self.role, self.from, self.to)
    }

    fn place(&self) -> String {
        format!("{} {} `{}`", self.file, self.function, self.call)
    }
}

impl Mutant {
    /// The text of the file with the mutation.
    pub(crate) fn apply(&self, source: &str) -> Result<String> {
        let before = source.get(..self.range.start);
        let after = source.get(self.range.end..);
        let (before, after) = before.zip(after).context("the file is shorter than it was")?;
        Ok([before, self.text, after].concat())
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let edge = if self.edge.is_empty() { "" } else { " " };
        let Self { file, line, edge: tag, function, call, .. } = self;
        write!(f, "{file}:{line}{edge}{tag} {function} `{call}` {}", self.change())
    }
}

/// All mutants of the shipped code.
pub(crate) fn mutants(root: &Path) -> Result<Vec<Mutant>> {
    let source = root.join("core/src");
    let mut all = Vec::new();
    for (name, is_in_models) in modules(&source, "lib.rs", true)? {
        let found = scan(&name, &fs::read_to_string(source.join(&name))?, is_in_models);
        all.extend(found.with_context(|| format!("in core/src/{name}"))?);
    }
    ensure!(!all.is_empty(), "no orderings in {}", source.display());
    Ok(all)
}

/// The shipped files of the module in `file`, by their paths under `source`, and whether the models are
/// built with them.
fn modules(source: &Path, file: &str, is_in_models: bool) -> Result<Vec<(String, bool)>> {
    let parsed = syn::parse_file(&fs::read_to_string(source.join(file))?)?;
    let folder = file.strip_suffix("lib.rs").or_else(|| file.strip_suffix("mod.rs"));
    let mut all = vec![(file.to_owned(), is_in_models)];
    for item in parsed.items {
        let syn::Item::Mod(module) = item else { continue };
        let configuration = Configuration::of(&module.attrs);
        if module.content.is_some() || configuration == Configuration::NotShipped {
            continue;
        }
        let folder = folder.with_context(|| format!("{file} has modules in other files"))?;
        let is_in_models = is_in_models && configuration == Configuration::Always;
        let alone = format!("{folder}{}.rs", module.ident);
        let child = match source.join(&alone).exists() {
            true => alone,
            false => format!("{folder}{}/mod.rs", module.ident),
        };
        all.extend(modules(source, &child, is_in_models)?);
    }
    Ok(all)
}

/// The builds that contain the code under an attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Configuration {
    Always,
    NoModel,
    NotShipped,
}

impl Configuration {
    fn of(attributes: &[syn::Attribute]) -> Self {
        let mut found = Self::Always;
        for attribute in attributes {
            if attribute.path().is_ident("test") {
                return Self::NotShipped;
            }
            let syn::Meta::List(list) = &attribute.meta else { continue };
            if !list.path.is_ident("cfg") {
                continue;
            }
            // A `test`, `loom` or `kill_points` that must hold: the code does not ship.
            let (holds, fails) = names(list.tokens.clone(), true);
            if holds.iter().any(|it| ["test", "loom", "kill_points"].contains(&it.as_str())) {
                return Self::NotShipped;
            }
            if fails.iter().any(|it| it == "loom") {
                found = Self::NoModel;
            }
        }
        found
    }
}

/// The names in a `cfg` that must hold, and those that must not. An `any` counts as an `all`, because no
/// `any` here has these names.
fn names(tokens: TokenStream, holds: bool) -> (Vec<String>, Vec<String>) {
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    let mut is_negated = false;
    for token in tokens {
        match token {
            TokenTree::Ident(name) if name == "not" => is_negated = true,
            TokenTree::Ident(name) if holds => positive.push(name.to_string()),
            TokenTree::Ident(name) => negative.push(name.to_string()),
            TokenTree::Group(group) => {
                let (more, less) = names(group.stream(), holds != is_negated);
                positive.extend(more);
                negative.extend(less);
                is_negated = false;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    (positive, negative)
}

/// The mutants of one file.
fn scan(name: &str, text: &str, is_in_models: bool) -> Result<Vec<Mutant>> {
    let file = syn::parse_file(text)?;
    let mut scan = Scan {
        name,
        text,
        is_in_models: vec![is_in_models],
        function: Vec::new(),
        mutants: Vec::new(),
        named: Vec::new(),
        seen: Vec::new(),
    };
    scan.visit_file(&file);
    // Else an ordering in a constant, or in a method with another name, would be left out in silence.
    for (line, start) in &scan.seen {
        if !scan.named.contains(start) {
            bail!("line {line}: an ordering that is no argument of an access that is known");
        }
    }
    Ok(scan.mutants)
}

struct Scan<'a> {
    name: &'a str,
    text: &'a str,
    is_in_models: Vec<bool>,
    function: Vec<String>,
    mutants: Vec<Mutant>,
    /// Where the orderings of known accesses begin.
    named: Vec<usize>,
    /// The line and the beginning of each ordering.
    seen: Vec<(usize, usize)>,
}

/// The kind of access that has an ordering.
#[derive(Clone, Copy)]
enum Access {
    Load,
    Store,
    /// A read-modify-write.
    Both,
    Fence,
}

impl Access {
    /// One step weaker, with the text to put there.
    fn weaker(self, order: &str) -> &'static [(&'static str, &'static str)] {
        const ACQ_REL: (&str, &str) = ("AcqRel", "crate::sync::Ordering::AcqRel");
        const ACQUIRE: (&str, &str) = ("Acquire", "crate::sync::Ordering::Acquire");
        const RELEASE: (&str, &str) = ("Release", "crate::sync::Ordering::Release");
        const RELAXED: (&str, &str) = ("Relaxed", "crate::sync::Ordering::Relaxed");
        match (self, order) {
            (Self::Load, "SeqCst") => &[ACQUIRE],
            (Self::Store, "SeqCst") => &[RELEASE],
            (Self::Both, "SeqCst") => &[ACQ_REL, ACQUIRE, RELEASE],
            (Self::Fence, "SeqCst") => &[ACQ_REL],
            (_, "AcqRel") => &[ACQUIRE, RELEASE],
            (Self::Fence, _) => &[],
            _ => &[RELAXED],
        }
    }
}

impl Scan<'_> {
    fn ordering(&mut self, call: Span, argument: &syn::Expr, access: Access, role: &'static str) {
        let syn::Expr::Path(path) = argument else { return };
        let Some(last) = path.path.segments.last() else { return };
        let order = last.ident.to_string();
        if !ORDERINGS.contains(&order.as_str()) {
            return;
        }
        let range = range_of(path);
        self.named.push(last.ident.span().byte_range().start);
        for (to, text) in access.weaker(&order) {
            self.add(call, role, &order, to, range.clone(), text);
        }
        if matches!(access, Access::Fence) {
            self.add(call, role, &order, "none", call.byte_range(), "()");
        }
    }

    fn add(
        &mut self,
        call: Span,
        role: &'static str,
        from: &str,
        to: &'static str,
        range: Range<usize>,
        text: &'static str,
    ) {
        let line = call.end().line;
        let words = self.text.get(call.byte_range()).unwrap_or_default().split_whitespace();
        // A chain of calls on several lines becomes one line.
        let joined = words.collect::<Vec<_>>().join(" ").replace(" .", ".");
        self.mutants.push(Mutant {
            file: self.name.to_owned(),
            line,
            edge: edge(self.text, line),
            function: self.function.last().cloned().unwrap_or_default(),
            call: joined,
            role,
            from: from.to_owned(),
            to,
            range,
            text,
            is_in_models: self.is_in_models.iter().all(|it| *it),
        });
    }

    /// Visits the code under attributes, unless it does not ship.
    fn under(&mut self, attributes: &[syn::Attribute], then: impl FnOnce(&mut Self)) {
        let configuration = Configuration::of(attributes);
        if configuration != Configuration::NotShipped {
            self.is_in_models.push(configuration == Configuration::Always);
            then(self);
            self.is_in_models.pop();
        }
    }
}

fn range_of(path: &syn::ExprPath) -> Range<usize> {
    let segments = &path.path.segments;
    let start = segments.first().map_or(0, |it| it.ident.span().byte_range().start);
    start..segments.last().map_or(0, |it| it.ident.span().byte_range().end)
}

/// The edges that the comment on the line names, or the comment lines before it.
fn edge(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let comment = |line: &str| line.split_once("//").map(|it| it.1.to_owned());
    let mut comments: Vec<_> = lines.last().and_then(|line| comment(line)).into_iter().collect();
    let before = lines.iter().rev().skip(1).take_while(|line| line.trim().starts_with("//"));
    comments.extend(before.filter_map(|line| comment(line)));
    let mut edges: Vec<String> = Vec::new();
    for part in comments.iter().flat_map(|it| it.split('[').skip(1)) {
        if let Some((edge, _)) = part.split_once(']')
            && edge.chars().all(|it| it.is_ascii_lowercase() || it == '-')
        {
            edges.push(format!("[{edge}]"));
        }
    }
    edges.dedup();
    edges.join(" ")
}

impl<'ast> Visit<'ast> for Scan<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Const(it) => &it.attrs,
            syn::Item::Fn(it) => &it.attrs,
            syn::Item::Impl(it) => &it.attrs,
            syn::Item::Macro(it) => &it.attrs,
            syn::Item::Mod(it) => &it.attrs,
            syn::Item::Static(it) => &it.attrs,
            syn::Item::Trait(it) => &it.attrs,
            _ => &Vec::new(),
        };
        self.under(attributes, |scan| visit::visit_item(scan, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function.push(item.sig.ident.to_string());
        visit::visit_item_fn(self, item);
        self.function.pop();
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.under(&item.attrs, |scan| {
            scan.function.push(item.sig.ident.to_string());
            visit::visit_impl_item_fn(scan, item);
            scan.function.pop();
        });
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        let attributes = match statement {
            syn::Stmt::Local(it) => &it.attrs,
            _ => &Vec::new(),
        };
        self.under(attributes, |scan| visit::visit_stmt(scan, statement));
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let whole = syn::spanned::Spanned::span(call);
        let (name, arguments) = (call.method.to_string(), &call.args);
        match (name.as_str(), arguments.len()) {
            ("load", 1) => self.ordering(whole, &arguments[0], Access::Load, ""),
            ("store", 2) => self.ordering(whole, &arguments[1], Access::Store, ""),
            ("swap", 2) => self.ordering(whole, &arguments[1], Access::Both, ""),
            ("compare_exchange" | "compare_exchange_weak", 4) => {
                self.ordering(whole, &arguments[2], Access::Both, "success ");
                self.ordering(whole, &arguments[3], Access::Load, "failure ");
            }
            ("fetch_update", 3) => {
                self.ordering(whole, &arguments[0], Access::Both, "success ");
                self.ordering(whole, &arguments[1], Access::Load, "failure ");
            }
            (name, 2) if name.starts_with("fetch_") => {
                self.ordering(whole, &arguments[1], Access::Both, "");
            }
            _ => {}
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(function) = &*call.func
            && let Some(last) = function.path.segments.last()
            && (last.ident == "fence" || last.ident == "compiler_fence")
            && let Some(order) = call.args.first()
        {
            self.ordering(syn::spanned::Spanned::span(call), order, Access::Fence, "");
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if let Some(last) = path.path.segments.last()
            && ORDERINGS.contains(&last.ident.to_string().as_str())
        {
            let span = last.ident.span();
            self.seen.push((span.start().line, span.byte_range().start));
        }
    }

    /// syn does not parse the arguments of a macro.
    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.look_into(invocation.tokens.clone());
    }
}

impl Scan<'_> {
    fn look_into(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(name) if ORDERINGS.contains(&name.to_string().as_str()) => {
                    self.seen.push((name.span().start().line, name.span().byte_range().start));
                }
                TokenTree::Group(group) => self.look_into(group.stream()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(text: &str) -> Vec<String> {
        let found = scan("a.rs", text, true).unwrap();
        found.iter().map(|it| format!("{} {} {}", it.function, it.change(), it.edge)).collect()
    }

    /// Fails if a kind is left out, or has a step too many or too few (seen failing).
    #[test]
    fn each_kind_of_access_is_weakened_by_one_step() {
        let text = "
            fn f(word: &AtomicU64) {
                word.load(SeqCst); // [one]
                word.load(Ordering::Acquire);
                word.store(1, SeqCst);
                word.store(1, Relaxed);
                // Because. [two], [three]
                word.fetch_add(1, AcqRel);
                word.compare_exchange(0, 1, SeqCst, Acquire);
                fence(SeqCst);
            }";
        let expected = [
            "f SeqCst to Acquire [one]",
            "f Acquire to Relaxed ",
            "f SeqCst to Release ",
            "f AcqRel to Acquire [two] [three]",
            "f AcqRel to Release [two] [three]",
            "f success SeqCst to AcqRel ",
            "f success SeqCst to Acquire ",
            "f success SeqCst to Release ",
            "f failure Acquire to Relaxed ",
            "f SeqCst to AcqRel ",
            "f SeqCst to none ",
        ];
        assert_eq!(changes(text), expected);
    }

    /// Fails if a configuration is read as its opposite (seen failing).
    #[test]
    fn what_does_not_ship_is_left_alone() {
        let text = "
            #[cfg(loom)] mod model { fn f(word: &A) { word.load(SeqCst); } }
            #[cfg(all(test, not(loom)))] mod tests { fn f(word: &A) { word.load(SeqCst); } }
            #[cfg(not(loom))] mod native { fn g(word: &A) { word.load(SeqCst); } }
            impl B {
                #[cfg(test)] fn h(&self) { self.0.load(SeqCst); }
                #[cfg(not(kill_points))] fn i(&self) { self.0.load(SeqCst); }
            }";
        assert_eq!(changes(text), ["g SeqCst to Acquire ", "i SeqCst to Acquire "]);
        let found = scan("a.rs", text, true).unwrap();
        assert_eq!(found.iter().map(|it| it.is_in_models).collect::<Vec<_>>(), [false, true]);
    }

    /// Fails if an ordering that the scan does not understand is passed over (seen failing).
    #[test]
    fn an_ordering_that_is_not_understood_is_an_error() {
        for text in [
            "fn f() { let order = SeqCst; }",
            "fn f(word: &A) { assert!(word.load(SeqCst) == 0); }",
            "fn f(word: &A) { word.look(SeqCst); }",
        ] {
            assert!(scan("a.rs", text, true).is_err(), "{text}");
        }
        assert!(scan("a.rs", "use core::sync::atomic::Ordering::SeqCst;", true).is_ok());
    }

    #[test]
    fn a_mutation_replaces_the_ordering_alone() {
        let text = "fn f(w: &A) { w.load(Ordering::SeqCst); fence(SeqCst); }";
        let found = scan("a.rs", text, true).unwrap();
        let mutated: Vec<_> = found.iter().map(|it| it.apply(text).unwrap()).collect();
        let fence = "w.load(Ordering::SeqCst); fence(crate::sync::Ordering::AcqRel);";
        assert_eq!(
            mutated,
            [
                "fn f(w: &A) { w.load(crate::sync::Ordering::Acquire); fence(SeqCst); }".to_owned(),
                format!("fn f(w: &A) {{ {fence} }}"),
                "fn f(w: &A) { w.load(Ordering::SeqCst); (); }".to_owned(),
            ]
        );
    }
}
