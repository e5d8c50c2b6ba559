//! Promise: the code stays easy to find and to read. The modules of the server and of the trainer depend on each other
//! in one direction, no transaction waits for anything slow, and no file and no function is long.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which module names which.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// `run/step.rs` is `run::step`, `run/mod.rs` is `run`, and `lib.rs` is the empty path.
fn module_of(file: &Path) -> String {
    let path = file.with_extension("").to_string_lossy().replace('/', "::");
    path.strip_suffix("::mod").unwrap_or(if path == "lib" { "" } else { &path }).to_owned()
}

/// The Rust files below a directory.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The source of every module, without comments and unit tests.
fn sources(root: &Path) -> BTreeMap<String, String> {
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let without_comments = code.lines().map(|line| line.split("//").next().unwrap());
        (module_of(path.strip_prefix(root).unwrap()), without_comments.collect::<Vec<_>>().join("\n"))
    };
    rust_files(root).into_iter().map(source).collect()
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
        Some("crate" | "distillery" | "distillery_trainer") => {
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

/// The files and the rooms (the top-level modules) of a package's sources.
fn graphs(sources_of: &str) -> (Graph, Graph) {
    let files = graph_of_files(&sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(sources_of)));
    let rooms = graph_of_rooms(&files);
    let arrows = |graph: &Graph| graph.values().map(BTreeSet::len).sum::<usize>();
    let (all, among_files, among_rooms) = (rooms.len(), arrows(&files), arrows(&rooms));
    println!("{sources_of}: {all} rooms with {among_rooms} arrows; {} files with {among_files}", files.len());
    (files, rooms)
}

#[test]
fn no_room_of_the_server_is_in_an_import_circle() {
    let (_, rooms) = graphs("src");
    assert!(rooms["http"].contains("db") && rooms["main"].contains("cli"), "{rooms:?}");
    assert_eq!(circles(&rooms), Vec::<Vec<String>>::new());
}

#[test]
fn no_room_and_no_file_of_the_trainer_is_in_an_import_circle() {
    let (files, rooms) = graphs("trainer/src");
    assert!(rooms["run"].contains("models"), "{rooms:?}");
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

/// An identifier, a keyword or a single other character of code, and its line.
struct Token {
    text: String,
    line: usize,
}

/// The tokens of code without its comments and literals.
fn tokens(code: &str) -> Vec<Token> {
    let characters: Vec<char> = code.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < characters.len() {
        let rest = &characters[at..];
        let word = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
        let text: String = rest[..word.max(1)].iter().collect();
        let skipped = match (text.as_str(), &rest[word..]) {
            ("r" | "br" | "cr", after) => raw_string(after).map_or(0, |length| word + length),
            _ if word > 0 => 0,
            _ => comment_or_literal(rest),
        };
        let length = skipped.max(text.chars().count());
        if skipped == 0 && !text.trim().is_empty() {
            tokens.push(Token { text, line });
        }
        line += rest[..length].iter().filter(|c| **c == '\n').count();
        at += length;
    }
    tokens
}

/// The length of the comment or literal that code begins with; 0 if it begins with something else.
fn comment_or_literal(code: &[char]) -> usize {
    let until = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        let found = code.get(from..).and_then(|rest| rest.windows(end.len()).position(|window| window == end));
        found.map_or(code.len(), |place| from + place + end.len())
    };
    match code {
        ['/', '/', ..] => until(0, "\n") - 1,
        ['/', '*', ..] => until(2, "*/"),
        ['\'', '\\', _, ..] => until(3, "'"),
        ['\'', _, '\'', ..] => 3,
        ['"', ..] => {
            let mut at = 1;
            while at < code.len() && code[at] != '"' {
                at += if code[at] == '\\' { 2 } else { 1 };
            }
            code.len().min(at + 1)
        }
        _ => 0,
    }
}

/// The length of the raw string that code begins with after its `r`.
fn raw_string(code: &[char]) -> Option<usize> {
    let hashes = code.iter().take_while(|c| **c == '#').count();
    let content = code.get(hashes..)?.strip_prefix(&['"'])?;
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length = content.windows(end.len()).position(|window| window == end)?;
    Some(hashes + 1 + length + end.len())
}

/// The name of each function with a body, and its number of lines from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(String, usize)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (at, pair) in tokens.windows(2).enumerate() {
        let [keyword, name] = pair else { continue };
        // The type of a function has no name.
        if keyword.text != "fn" || !name.text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let (mut brackets, mut braces) = (0_i32, 0_i32);
        for token in &tokens[at + 2..] {
            match token.text.as_str() {
                "(" | "[" => brackets += 1,
                ")" | "]" => brackets -= 1,
                "{" => braces += 1,
                "}" => braces -= 1,
                ";" if brackets == 0 && braces == 0 => break,
                _ => continue,
            }
            if token.text == "}" && braces == 0 {
                found.push((name.text.clone(), token.line - keyword.line + 1));
                break;
            }
        }
    }
    found
}

#[test]
fn transactions_are_begun_where_nothing_waits_for_storage_files_or_the_network() {
    let modules = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    // These find, start and open the database, and have no transactions.
    let opening = ["db::embedded", "db::open", "db::listen"];
    let slow = ["artifacts::Store", "object_store", "reqwest", "::fs", "spawn_blocking", "sleep("];
    let (mut begun, mut faults) = (0, Vec::new());
    for (module, code) in &modules {
        let is_database = module == "db" || module.starts_with("db::");
        let may_begin = is_database && !opening.iter().any(|other| module.starts_with(other));
        let begins = code.matches(".begin()").count();
        begun += begins;
        if begins > 0 && !may_begin {
            faults.push(format!("{module} begins a transaction"));
        }
        let words = slow.iter().filter(|word| may_begin && code.contains(**word));
        faults.extend(words.map(|word| format!("{module} has {word}")));
    }
    assert!(begun > 10, "{begun}");
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn the_servers_temporary_files_are_where_the_next_server_finds_them() {
    let modules = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let named = ["NamedTempFile", "TempDir", "TempPath", "tempfile::Builder", "temp_dir("];
    let places = modules.iter().filter(|(_, code)| named.iter().any(|name| code.contains(name)));
    let of_server: Vec<_> = places.map(|(module, _)| module.as_str()).filter(|name| name.starts_with("http")).collect();
    assert_eq!(of_server, ["http::workspace"]);
}

/// The functions that are tables, with a line or two for each entry.
const TABLES: [&str; 6] = [
    "core/src/checkpoint/pickle/mod.rs: step",
    "core/src/export/onnx/operators.rs: operation",
    "core/src/exported/operators.rs: one",
    "core/src/exported/rules.rs: infer",
    "core/tests/it/export/reference.rs: result",
    "trainer/src/models/lower.rs: operation",
];

#[test]
fn no_file_is_over_400_lines_and_no_function_but_a_table_over_60() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut long, mut tables) = (Vec::new(), BTreeSet::new());
    for tree in ["core/src", "src", "trainer/src", "core/tests", "tests", "trainer/tests"] {
        let files = rust_files(&root.join(tree));
        assert!(files.len() > 10, "{tree}");
        for path in files {
            let code = std::fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(root).unwrap().display();
            let lines = code.lines().count();
            if lines > 400 {
                long.push(format!("{file}: {lines} lines"));
            }
            for (name, lines) in functions(&code).into_iter().filter(|(_, lines)| *lines > 60) {
                let function = format!("{file}: {name}");
                if !TABLES.contains(&function.as_str()) {
                    long.push(format!("{function}: {lines} lines"));
                }
                tables.insert(function);
            }
        }
    }
    assert_eq!(long, Vec::<String>::new());
    let short: Vec<_> = TABLES.into_iter().filter(|table| !tables.contains(*table)).collect();
    assert_eq!(short, Vec::<&str>::new(), "no longer long: take it off the list");
}

#[test]
fn a_function_is_measured_past_braces_in_strings_characters_and_comments() {
    let code = r##"
fn one(limit: [u8; 2], run: fn(u8) -> u8) -> char {
    // } not the end
    let text = "} \" }";
    let raw = r#"} " }"#;
    /* } */
    if limit.len() > text.len() { '}' } else { '\'' }
}
trait Shape {
    fn area<'a>(&'a self) -> u8;
    async fn two(&self) { }
}
"##;
    assert_eq!(functions(code), [("one".to_owned(), 7), ("two".to_owned(), 1)]);
}
