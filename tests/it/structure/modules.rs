//! Which module names which, by what their code imports and mentions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::tokens::{Token, tokens};

/// Which module names which.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// What a module's code names.
pub struct Module {
    imports: Vec<Import>,
    /// Paths elsewhere in the code, by their parts.
    paths: Vec<Vec<String>>,
}

/// A path of a `use` declaration, by its parts, and the name that it gets.
#[derive(Debug, PartialEq)]
struct Import {
    path: Vec<String>,
    name: String,
}

/// `run/step.rs` is `run::step`, `run/mod.rs` is `run`, and `lib.rs` is the empty path.
fn module_of(file: &Path) -> String {
    let path = file.with_extension("").to_string_lossy().replace('/', "::");
    path.strip_suffix("::mod").unwrap_or(if path == "lib" { "" } else { &path }).to_owned()
}

/// The files below a directory whose names have this extension, which may be none.
pub fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] });
    files.filter(|path| path.extension().unwrap_or_default() == extension).collect()
}

/// The source of every module, without comments and unit tests.
pub fn sources(root: &Path) -> BTreeMap<String, String> {
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines: Vec<_> = code.lines().map(without_comment).collect();
        (module_of(path.strip_prefix(root).unwrap()), lines.join("\n"))
    };
    files(root, "rs").into_iter().map(source).collect()
}

/// A line up to its comment. The slashes of an address in a string begin none.
fn without_comment(line: &str) -> &str {
    let quotes = |before: &str| before.matches('"').count() - before.matches("\\\"").count();
    let mut slashes = line.match_indices("//").map(|(at, _)| &line[..at]);
    slashes.find(|before| quotes(before) % 2 == 0).unwrap_or(line)
}

impl Module {
    fn of(code: &str) -> Self {
        let tokens = tokens(code);
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        let (mut imports, mut paths, mut at) = (Vec::new(), Vec::new(), 0);
        while at < tokens.len() {
            let is_continued = at > 1 && text(at - 1) == ":" && text(at - 2) == ":";
            // `use<'a>` is no declaration.
            if text(at) == "use" && text(at + 1) != "<" {
                at += 1;
                import(&tokens, &mut at, &[], &mut imports);
            } else if is_word(text(at)) && !is_continued {
                let mut path = vec![text(at).to_owned()];
                while text(at + 1) == ":" && text(at + 2) == ":" && is_word(text(at + 3)) {
                    path.push(text(at + 3).to_owned());
                    at += 3;
                }
                paths.extend((path.len() > 1).then_some(path));
            }
            at += 1;
        }
        Self { imports, paths }
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The paths of a `use` declaration: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn import(tokens: &[Token], at: &mut usize, prefix: &[String], found: &mut Vec<Import>) {
    let mut path = prefix.to_vec();
    while let Some(Token { text, .. }) = tokens.get(*at) {
        match text.as_str() {
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token.text != "}") {
                    import(tokens, at, &path, found);
                    *at += usize::from(tokens.get(*at).is_some_and(|token| token.text == ","));
                }
                *at += 1;
                return;
            }
            "as" => {
                let name = tokens[*at + 1].text.clone();
                *at += 2;
                return found.push(Import { path, name });
            }
            "," | "}" | ";" => {
                let name = path.last().cloned().unwrap_or_default();
                return found.push(Import { path, name });
            }
            ":" => {}
            // The module itself, in braces.
            "self" if !path.is_empty() => {}
            part => path.push(part.to_owned()),
        }
        *at += 1;
    }
}

/// The module that a path in `module` leads to, and what it names there; `None` if it leads to another crate.
fn locate<'a>(module: &str, path: &'a [String], modules: &BTreeMap<String, Module>) -> Option<(String, &'a [String])> {
    let child = |of: &str, name: &str| [of, name].join("::").trim_start_matches(':').to_owned();
    let mut named = module.to_owned();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" | "distillery" | "distillery_trainer" => {
            named.clear();
            rest = &rest[1..];
        }
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                named = named.rsplit_once("::").map_or_else(String::new, |(parent, _)| parent.to_owned());
                rest = &rest[1..];
            }
        }
        "self" => rest = &rest[1..],
        // A child, as in `use frozen::Frozen`.
        first if modules.contains_key(&child(module, first)) => {}
        _ => return None,
    }
    while let Some(longer) = rest.first().map(|part| child(&named, part)).filter(|longer| modules.contains_key(longer))
    {
        named = longer;
        rest = &rest[1..];
    }
    Some((named, rest))
}

/// Which file names which. What a file re-exports counts as a name of the file that has it, and a module that is
/// imported counts for what is named of it.
pub fn graph_of_files(sources: &BTreeMap<String, String>) -> Graph {
    let modules: BTreeMap<String, Module> =
        sources.iter().map(|(module, code)| (module.clone(), Module::of(code))).collect();
    // Where a name in a module comes from, if another module has it.
    let mut exports: BTreeMap<(String, String), String> = BTreeMap::new();
    for (module, Module { imports, .. }) in &modules {
        for import in imports {
            if let Some((from, [_])) = locate(module, &import.path, &modules).filter(|(from, _)| from != module) {
                exports.insert((module.clone(), import.name.clone()), from);
            }
        }
    }
    let arrows = |(name, module): (&String, &Module)| {
        let found = named_by(name, module, &modules).into_iter().map(|(mut from, item)| {
            let mut passed = BTreeSet::new();
            while let Some(origin) = exports.get(&(from.clone(), item.clone())).filter(|_| passed.insert(from.clone()))
            {
                from.clone_from(origin);
            }
            from
        });
        (name.clone(), found.filter(|found| found != name && !found.is_empty()).collect())
    };
    modules.iter().map(arrows).collect()
}

/// The modules that a module names, each with what it names of it.
fn named_by(name: &str, module: &Module, modules: &BTreeMap<String, Module>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut imported: BTreeMap<&str, String> = BTreeMap::new();
    for import in &module.imports {
        match locate(name, &import.path, modules) {
            Some((from, [])) => drop(imported.insert(&import.name, from)),
            Some((from, [item, ..])) => found.push((from, item.clone())),
            None => {}
        }
    }
    for path in &module.paths {
        let through = imported.get(path[0].as_str()).map(|from| {
            let parts = std::iter::once("crate").chain(from.split("::")).chain(path[1..].iter().map(String::as_str));
            parts.map(str::to_owned).collect::<Vec<_>>()
        });
        if let Some((from, [item, ..])) = locate(name, through.as_ref().unwrap_or(path), modules) {
            found.push((from, item.clone()));
        }
    }
    found
}

pub fn graph_of_rooms(files: &Graph) -> Graph {
    let room = |module: &str| module.split("::").next().unwrap().to_owned();
    let mut rooms = Graph::new();
    for (file, named) in files {
        let others = named.iter().map(|module| room(module)).filter(|named| *named != room(file));
        rooms.entry(room(file)).or_default().extend(others);
    }
    rooms
}

/// Without the arrows from a module to those below it: that a module is made of these is no dependency that a reader
/// has to follow in a circle.
pub fn without_children(files: &Graph) -> Graph {
    let is_below = |file: &str, named: &str| named.strip_prefix(file).is_some_and(|rest| rest.starts_with("::"));
    let others = |(file, named): (&String, &BTreeSet<String>)| {
        (file.clone(), named.iter().filter(|named| !file.is_empty() && !is_below(file, named)).cloned().collect())
    };
    files.iter().map(others).collect()
}

/// The groups of modules that reach each other.
pub fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached = |start: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start.to_owned()]);
        while let Some(module) = next.pop() {
            next.extend(
                graph.get(&module).into_iter().flatten().filter(|named| seen.insert((*named).clone())).cloned(),
            );
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|module| (module, reached(module))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for (module, reached) in &reach {
        let is_new = circles.iter().all(|circle| !circle.contains(module));
        if is_new && reached.contains(*module) {
            let both = reached.iter().filter(|other| reach.get(other).is_some_and(|back| back.contains(*module)));
            circles.push(both.cloned().collect());
        }
    }
    circles
}

#[test]
fn addresses_in_strings_are_no_comments() {
    assert_eq!(without_comment(r#"a("http://b", "\"c://d"); // e"#), r#"a("http://b", "\"c://d"); "#);
    assert_eq!(without_comment("a(); /// \"b\""), "a(); ");
    assert_eq!(without_comment("    // a"), "    ");
}

#[test]
fn a_circle_is_found_through_grouped_nested_and_passed_on_names() {
    let module = |name: &str, code: &str| (name.to_owned(), code.to_owned());
    let sources = BTreeMap::from([
        module("a", "use crate::{b::{self, Thing}, c}; fn f(thing: Thing) -> c::Other { b::g() }"),
        module("b", "fn f(at: crate::e::Place) { super::d::g(); }"),
        module("c", ""),
        module("d", "use std::io;\nuse crate::a::Other as Another;"),
        module("e", "mod below; mod beside; pub use below::Place; fn f() { beside::g(); }"),
        module("e::below", "use super::beside;\nfn f(list: &[Place]) -> impl Fit + use<'_> { beside::g() }"),
        module("e::beside", "use super::Place;"),
    ]);
    let graph = graph_of_files(&sources);
    assert_eq!(graph["a"], ["b", "c"].map(str::to_owned).into());
    assert_eq!(graph["b"], ["d", "e::below"].map(str::to_owned).into());
    assert_eq!(graph["e"], ["e::below", "e::beside"].map(str::to_owned).into());
    assert_eq!(circles(&without_children(&graph)), [vec!["a", "b", "d"], vec!["e::below", "e::beside"]]);
}
