//! Promise: the code stays easy to find and to read. Modules depend on each other in one direction, no transaction
//! waits for anything slow, and no file, function or comment line is long. `oxlint` holds JavaScript to the same.
//!
//! With `--nocapture`, the lines that begin with `structure: ` say how many there are of each.

mod modules;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use modules::{Graph, circles, files, graph_of_files, graph_of_rooms, sources, without_children};
use tokens::functions;

const NONE: [Vec<String>; 0] = [];

/// The files and the rooms (the top-level modules) of a package's sources.
fn graphs(sources_of: &str) -> (Graph, Graph) {
    let files = graph_of_files(&sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(sources_of)));
    let rooms = graph_of_rooms(&files);
    let arrows = |graph: &Graph| graph.values().map(BTreeSet::len).sum::<usize>();
    let (all, among_files, among_rooms) = (rooms.len(), arrows(&files), arrows(&rooms));
    let in_circles = [circles(&rooms).len(), circles(&without_children(&files)).len()];
    println!(
        "structure: {sources_of} has {all} rooms with {among_rooms} arrows and {} circles, and {} files with \
         {among_files} arrows and {} circles",
        in_circles[0],
        files.len(),
        in_circles[1]
    );
    (files, rooms)
}

#[test]
fn no_room_and_no_files_of_the_server_name_each_other_in_a_circle() {
    let (files, rooms) = graphs("src");
    assert!(rooms["http"].contains("db") && rooms["main"].contains("cli"), "{rooms:?}");
    assert!(files["db::queue::rescue"].contains("db::queue::finish"), "{files:?}");
    assert_eq!(circles(&rooms), NONE);
    assert_eq!(circles(&without_children(&files)), NONE);
}

#[test]
fn no_room_and_no_files_of_the_core_name_each_other_in_a_circle() {
    let (files, rooms) = graphs("core/src");
    assert!(rooms["export"].contains("exported"), "{rooms:?}");
    assert_eq!(circles(&rooms), NONE);
    assert_eq!(circles(&without_children(&files)), NONE);
}

#[test]
fn no_room_and_no_files_of_the_trainer_name_each_other_in_a_circle() {
    let (files, rooms) = graphs("trainer/src");
    assert!(rooms["run"].contains("models"), "{rooms:?}");
    assert_eq!(circles(&rooms), NONE);
    // Not even a module and those below it.
    assert_eq!(circles(&files), NONE);
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

#[test]
fn programs_print_without_the_macros_that_panic_once_nobody_reads() {
    let words = ["print", "println", "eprint", "eprintln"].map(|name| format!("{name}!("));
    let begins = |code: &str, at: usize| !code[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_');
    let mut faults = Vec::new();
    for sources_of in ["src", "core/src", "trainer/src"] {
        for (module, code) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(sources_of)) {
            let found = words.iter().filter(|word| code.match_indices(word.as_str()).any(|(at, _)| begins(&code, at)));
            faults.extend(found.map(|word| format!("{sources_of}: {module} has {word}")));
        }
    }
    assert_eq!(faults, Vec::<String>::new(), "use tell! or writeln!");
}

#[test]
fn the_fuzzer_starts_from_a_network_of_every_operator() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = std::fs::read_to_string(root.join("scripts/operator_networks.py")).unwrap();
    let named = script.lines().filter_map(|line| line.trim().strip_prefix("yield \"")?.split_once('"'));
    let named: BTreeSet<String> = named.map(|(name, _)| name.to_owned()).collect();
    assert!(named.contains("relu6") && named.contains("amin"), "{named:?}");
    let corpus = zip::ZipArchive::new(std::fs::File::open(root.join("fuzz/exported.zip")).unwrap()).unwrap();
    let corpus: BTreeSet<String> = corpus.file_names().map(|name| name.unwrap().into_owned()).collect();
    assert_eq!(corpus, named, "write them with .deps/networks/run scripts/fuzz_corpus.py --networks");
}

/// The functions that are tables, with a line or two for each entry.
const TABLES: [&str; 8] = [
    "core/src/checkpoint/pickle/mod.rs: step",
    "core/src/export/onnx/operators.rs: operation",
    "core/src/exported/operators.rs: one",
    "core/src/exported/operators.rs: several",
    "core/src/exported/rules.rs: infer",
    "core/tests/it/export/reference.rs: result",
    "scripts/operator_networks.py: functions",
    "trainer/src/models/lower.rs: operation",
];

/// Directories with code that is held to be short, and the ends of its files' names, which some of the scripts lack.
const TREES: [(&str, &str); 14] = [
    ("benches", "py"),
    ("benches", "rs"),
    ("core/src", "rs"),
    ("core/tests", "rs"),
    ("examples", "py"),
    ("fuzz/fuzz_targets", "rs"),
    ("python", "py"),
    ("scripts", ""),
    ("scripts", "py"),
    ("src", "rs"),
    ("tests", "py"),
    ("tests", "rs"),
    ("trainer", "cpp"),
    ("trainer", "rs"),
];
/// Written by a script.
const GENERATED: &str = "python/distillery/types.py";

/// The code of the repository: each file's path from its root, and its text.
fn code() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: PathBuf| {
        let file = path.strip_prefix(root).unwrap().display().to_string();
        (file, std::fs::read_to_string(path).unwrap())
    };
    let mut code = Vec::new();
    for (tree, extension) in TREES {
        let files = files(&root.join(tree), extension);
        assert!(!files.is_empty(), "{tree} has no {extension:?}");
        code.extend(files.into_iter().map(read));
    }
    code
}

#[test]
fn no_file_is_over_400_lines_and_no_function_but_a_table_over_60() {
    let (mut long_files, mut long_functions, mut tables) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (file, code) in code().into_iter().filter(|(file, _)| file != GENERATED) {
        let lines = code.lines().count();
        if lines > 400 {
            long_files.push(format!("{file}: {lines} lines"));
        }
        let functions = match file.rsplit_once('.') {
            Some((_, "rs")) => functions(&code),
            Some((_, "py")) => python_functions(&code),
            _ => Vec::new(),
        };
        for (name, lines) in functions.into_iter().filter(|(_, lines)| *lines > 60) {
            let function = format!("{file}: {name}");
            if !TABLES.contains(&function.as_str()) {
                long_functions.push(format!("{function}: {lines} lines"));
            }
            tables.insert(function);
        }
    }
    let (files, functions, all) = (long_files.len(), long_functions.len(), TABLES.len());
    println!("structure: {files} files over 400 lines, {functions} functions over 60 lines besides {all} tables");
    assert_eq!(long_files, Vec::<String>::new());
    assert_eq!(long_functions, Vec::<String>::new());
    let short: Vec<_> = TABLES.into_iter().filter(|table| !tables.contains(*table)).collect();
    assert_eq!(short, Vec::<&str>::new(), "no longer long: take it off the list");
}

#[test]
fn no_comment_is_wider_than_120_columns() {
    let is_wide = |line: &str| {
        let text = line.trim_start();
        (text.starts_with("//") || text.starts_with("# ")) && line.chars().count() > 120
    };
    let mut wide = Vec::new();
    for (file, code) in code() {
        let lines = code.lines().enumerate().filter(|(_, line)| is_wide(line));
        wide.extend(lines.map(|(at, _)| format!("{file}:{}", at + 1)));
    }
    assert_eq!(wide, Vec::<String>::new());
}

#[test]
fn no_two_types_but_those_of_errors_share_a_name() {
    let mut files_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, code) in code().into_iter().filter(|(file, _)| file.ends_with(".rs") && file.contains("src/")) {
        let tokens = tokens::tokens(code.split("#[cfg(test)]").next().unwrap());
        for pair in tokens.windows(2).filter(|pair| ["struct", "enum", "trait"].contains(&pair[0].text.as_str())) {
            files_of.entry(pair[1].text.clone()).or_default().push(file.clone());
        }
    }
    assert!(files_of.contains_key("FencingToken"), "{files_of:?}");
    files_of.retain(|name, files| name != "Error" && files.len() > 1);
    println!("structure: {} names of types used for two things, besides Error", files_of.len());
    assert_eq!(files_of, BTreeMap::new());
}

#[test]
fn each_package_has_one_test_program_besides_its_unit_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut programs = BTreeSet::new();
    for tests in ["tests", "core/tests", "trainer/tests"] {
        for entry in std::fs::read_dir(root.join(tests)).unwrap() {
            let path = entry.unwrap().path();
            let is_program =
                path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists();
            programs.extend(is_program.then(|| path.strip_prefix(root).unwrap().display().to_string()));
        }
    }
    println!("structure: {} test programs besides unit tests", programs.len());
    assert_eq!(programs, ["core/tests/it", "tests/it", "trainer/tests/it"].map(str::to_owned).into());
}

/// The name of each function of a Python program, and its number of lines: those from `def` on that are indented more.
fn python_functions(code: &str) -> Vec<(String, usize)> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = code.lines().collect();
    let function = |(at, line): (usize, &&str)| {
        let line = line.trim_start();
        let signature = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def ")?;
        let name = signature.split(['(', '[']).next()?;
        let is_inside = |line: &&&str| {
            line.trim().is_empty() || line.trim().starts_with(')') || indentation(line) > indentation(lines[at])
        };
        let body: Vec<&&str> = lines[at + 1..].iter().take_while(is_inside).collect();
        let end = body.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        Some((name.to_owned(), end + 1))
    };
    lines.iter().enumerate().filter_map(function).collect()
}

#[test]
fn a_python_function_ends_where_less_is_indented() {
    let code = "def one(\n    a,\n):\n    def two():\n        pass\n\n    return two\n\nasync def three(): pass\n";
    let expected = [("one", 7), ("two", 2), ("three", 1)].map(|(name, lines)| (name.to_owned(), lines));
    assert_eq!(python_functions(code), expected);
}
