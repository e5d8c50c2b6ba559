//! The modules of `src` depend on each other in one direction: neither its rooms (the top-level modules) nor its files
//! import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Which module names which.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// `run/step.rs` is `run::step`, `run/mod.rs` is `run`, and `lib.rs` is the empty path.
fn module_of(file: &Path) -> String {
    let path = file.with_extension("").to_string_lossy().replace('/', "::");
    path.strip_suffix("::mod").unwrap_or(if path == "lib" { "" } else { &path }).to_owned()
}

/// The source of every module, without comments and unit tests.
fn sources(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let without_comments = code.lines().map(|line| line.split("//").next().unwrap());
            let module = module_of(path.strip_prefix(root).unwrap());
            found.insert(module, without_comments.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The paths of a `use` declaration: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (index, character) in inner.char_indices().chain([(inner.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[start..index].trim();
                let expanded = expand(part).into_iter().filter(|path| !path.is_empty());
                paths.extend(expanded.map(|path| format!("{}{path}", prefix.trim())));
                start = index + 1;
            }
            _ => {}
        }
    }
    paths
}

/// Every path in a module's code that can name another module: those of `use`, and those that begin with `crate` or
/// `super` anywhere else.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let at = statement.rfind("use ").filter(|at| {
            let before = statement[..*at].trim_end();
            before.is_empty() || before.ends_with([';', '}', ']', ')', '{']) || before.ends_with("pub")
        });
        match at {
            Some(at) => paths.extend(expand(statement[at + 4..].trim_end_matches(';'))),
            None => rest.push_str(statement),
        }
    }
    for root in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(root) {
            let is_path = |c: &char| c.is_alphanumeric() || matches!(c, '_' | ':');
            paths.push(rest[at..].chars().take_while(is_path).collect());
        }
    }
    paths
}

/// The module that a path in `module` names, or `None` if it names another crate.
fn resolve(module: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    match parts.peek().copied() {
        Some("crate" | "distillery_trainer") => {
            base.clear();
            parts.next();
        }
        Some("super") => {
            while parts.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        Some("self") => drop(parts.next()),
        // A child, as in `use frozen::Frozen`.
        Some(child) if modules.contains_key([module, child].join("::").trim_start_matches(':')) => {}
        _ => return None,
    }
    let mut named = base.join("::");
    for part in parts {
        let longer = [named.as_str(), part].join("::").trim_start_matches(':').to_owned();
        if !modules.contains_key(&longer) {
            break;
        }
        named = longer;
    }
    Some(named)
}

fn graph_of_files(modules: &BTreeMap<String, String>) -> Graph {
    let named = |(module, code): (&String, &String)| {
        let found = paths(code).into_iter().filter_map(|path| resolve(module, &path, modules));
        (module.clone(), found.filter(|found| found != module && !found.is_empty()).collect())
    };
    modules.iter().map(named).collect()
}

fn graph_of_rooms(files: &Graph) -> Graph {
    let room = |module: &str| module.split("::").next().unwrap().to_owned();
    let mut rooms = Graph::new();
    for (file, named) in files {
        let others = named.iter().map(|module| room(module)).filter(|named| *named != room(file));
        rooms.entry(room(file)).or_default().extend(others);
    }
    rooms
}

/// The groups of modules that reach each other.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
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
fn no_room_and_no_file_of_the_trainer_is_in_an_import_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    sources(&root, &root, &mut modules);
    let files = graph_of_files(&modules);
    let rooms = graph_of_rooms(&files);
    let arrows = |graph: &Graph| graph.values().map(BTreeSet::len).sum::<usize>();
    println!("{} rooms with {} arrows; {} files with {}", rooms.len(), arrows(&rooms), files.len(), arrows(&files));
    let (of_rooms, of_files) = (circles(&rooms), circles(&files));
    assert!(of_rooms.is_empty() && of_files.is_empty(), "circles of rooms: {of_rooms:?}; of files: {of_files:?}");
}

#[test]
fn a_circle_is_found_through_grouped_and_nested_imports() {
    let module = |name: &str, code: &str| (name.to_owned(), code.to_owned());
    let modules = BTreeMap::from([
        module("a", "use crate::{b::{self, Thing}, c};"),
        module("b", "fn f() { super::d::g(); }"),
        module("c", ""),
        module("d", "use std::io;\nuse crate::a::Other as Another;"),
    ]);
    let graph = graph_of_files(&modules);
    assert_eq!(graph["a"], ["b", "c"].map(str::to_owned).into());
    assert_eq!(circles(&graph), [["a", "b", "d"]]);
}
