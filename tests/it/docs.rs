//! Promise: the documents show what the project does. The paths, links, tests, series, storage keys and metrics that
//! they name exist, and their examples are accepted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser;
use distillery::artifacts::keys;
use distillery::cli::Cli;
use distillery::db::jobs::{Change, Status};
use distillery::protocol::series;
use distillery::spec::{Request, TrainingPlan};
use serde_json::{Value, json};

use crate::support::api::{Api, checkpoint};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document for people: its path from the root, and its text.
fn documents() -> Vec<(String, String)> {
    let mut paths = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The texts between backticks outside code blocks.
fn code_spans(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// The content of every code block, without the line of its language.
fn code_blocks(text: &str) -> Vec<&str> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.map(|block| block.split_once('\n').map_or("", |(_, content)| content)).collect()
}

/// The rows of the tables below a heading, without the first table's heads.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    section.lines().filter_map(|line| line.strip_prefix("| ")).skip(2).collect()
}

/// The first cells of the tables below a heading.
fn first_cells<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    rows(text, heading).into_iter().map(|row| row.split(" | ").next().unwrap()).collect()
}

/// The directories of the repository's root that belong to it.
fn top_directories() -> Vec<String> {
    std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !["target", "data", "dist", "node_modules", ".git", ".deps"].contains(&name.as_str()))
        .collect()
}

#[test]
fn paths_in_the_documents_exist() {
    let top = top_directories();
    let mut missing = Vec::new();
    for (document, text) in documents() {
        let words = code_blocks(&text).into_iter().flat_map(str::split_whitespace);
        for word in code_spans(&text).into_iter().filter_map(|span| span.split_whitespace().next()).chain(words) {
            let path = word.trim_end_matches([',', ';', ':', '.']);
            let is_path = path.split_once('/').is_some_and(|(first, _)| top.iter().any(|name| name == first));
            if is_path && !path.contains(['*', '<', '…', '$', '{']) && !root().join(path).exists() {
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for (document, text) in documents() {
        let directory = root().join(&document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let path: PathBuf = if path.is_empty() { root().join(&document) } else { directory.join(path) };
            let is_found = path.exists()
                && (fragment.is_empty()
                    || std::fs::read_to_string(&path).is_ok_and(|text| {
                        text.lines().any(|line| {
                            line.starts_with('#') && anchor(line.trim_start_matches(['#', ' '])) == fragment
                        })
                    }));
            if !is_found {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn every_directory_and_every_module_is_on_the_map() {
    let text = read("docs/architecture.md");
    let named: BTreeSet<&str> = code_spans(&text).into_iter().collect();
    // A hidden directory may be an editor's.
    let visible = top_directories().into_iter().filter(|name| !name.starts_with('.')).map(|name| format!("{name}/"));
    let mut missing: Vec<String> =
        visible.filter(|name| !named.iter().any(|span| span.starts_with(name.as_str()))).collect();
    for package in ["src", "core/src", "trainer/src"] {
        for entry in std::fs::read_dir(root().join(package)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{package}/{name}{}", if entry.path().is_dir() { "/" } else { "" });
            if name != "lib.rs" && !named.contains(path.as_str()) {
                missing.push(path);
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "add to docs/architecture.md");
}

/// The names of the functions in a file or below a directory.
fn functions(path: &Path) -> Vec<String> {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().flat_map(|entry| functions(&entry.unwrap().path())).collect();
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_once("fn ")).map(|(_, rest)| rest);
    names.filter_map(|rest| rest.split('(').next()).map(str::to_owned).collect()
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let text = read("docs/reliability.md");
    let mut missing = Vec::new();
    let mut checked = 0;
    for span in code_spans(&text).into_iter().filter(|span| span.contains("::") && !span.contains([' ', '/'])) {
        let (module, test) = span.rsplit_once("::").unwrap();
        let prefix = test.trim_end_matches('…');
        let is_there = |tests: &str| {
            let path = root().join(tests).join(module.replace("::", "/"));
            let path = if path.is_dir() { path } else { path.with_extension("rs") };
            path.exists() && functions(&path).iter().any(|name| name.starts_with(prefix))
        };
        checked += 1;
        if !["tests/it", "core/tests/it"].into_iter().any(is_there) {
            missing.push(span);
        }
    }
    assert_eq!(missing, Vec::<&str>::new());
    assert!(checked > 30, "{checked}");
}

#[test]
fn what_a_gpu_does_is_proved_without_one_or_was_run_on_a_card_that_is_named() {
    let text = read("docs/performance.md");
    let tests = functions(&root().join("trainer/tests/it/gpu.rs"));
    let rows = rows(&text, "On a GPU");
    assert!(rows.len() > 8, "{rows:?}");
    for row in rows {
        let evidence = row.split(" | ").nth(1).unwrap_or_default();
        let is_proved = evidence.starts_with("proved by `") && evidence.contains("` without one");
        assert!(is_proved || evidence.starts_with("run on "), "{row}");
        for name in code_spans(row).into_iter().filter_map(|span| span.strip_prefix("gpu::")) {
            assert!(tests.iter().any(|test| test == name), "there is no test {name}: {row}");
        }
    }
}

#[test]
fn the_documented_series_are_those_of_the_code() {
    let text = read("docs/architecture.md");
    let documented: BTreeSet<&str> = first_cells(&text, "Metric series").into_iter().flat_map(code_spans).collect();
    let of_scales =
        [series::scale_loss(9), series::scale_complementary_fraction(9)].map(|name| name.replace('9', "<m>"));
    let known = series::ALL.into_iter().chain(of_scales.iter().map(String::as_str));
    assert_eq!(documented, known.collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn the_documented_storage_keys_are_those_of_the_code() {
    let api = Api::start().await;
    let text = read("docs/architecture.md");
    let documented: BTreeSet<&str> = first_cells(&text, "Storage keys").into_iter().flat_map(code_spans).collect();
    let probe = keys::probe();
    let (kind, _) = probe.split_once('/').unwrap();
    let old: String =
        sqlx::query_scalar("select checkpoint_key(null, '<sha256>')").fetch_one(&api.db.pool).await.unwrap();
    let known = [
        keys::checkpoint("<sha256>", "<ulid>"),
        old,
        keys::dataset("<sha256>", "<ulid>"),
        keys::attempt_file("<job>", "<attempt>-<claim>", "<file>"),
        keys::state("<job>", "<attempt>-<claim>", 9).replace('9', "<step>"),
        format!("{kind}/<ulid>"),
        keys::STORAGE_ID.to_owned(),
    ];
    assert_eq!(documented, known.iter().map(String::as_str).collect::<BTreeSet<_>>());
}

/// The texts between single quotes of a list that goes to `end`.
fn quoted(list: &str, end: char) -> Vec<&str> {
    list.split(end).next().unwrap().split('\'').skip(1).step_by(2).collect()
}

/// `src/db/jobs/status.rs` decides. The dashboard has a copy, and so has the trigger `notify_job` in the first
/// migration, which cannot change any more: a new final status needs a new trigger.
#[test]
fn the_statuses_of_the_dashboard_and_of_the_trigger_are_those_of_the_server() {
    let text = read("static/js/ui/status.js");
    let after = |words: &str| text.split_once(words).unwrap_or_else(|| panic!("status.js has no {words}")).1;
    let final_statuses = Status::FINAL.map(Status::name);
    assert_eq!(quoted(after("const FINAL = ["), ']'), final_statuses);
    for (verb, change) in
        [("pause", Change::Pause), ("resume", Change::Resume), ("retry", Change::Retry), ("cancel", Change::Cancel)]
    {
        let (_, offered) = after(&format!("verb: '{verb}'")).split_once("from: [").unwrap();
        let is_changed = |status: &Status| status.after(change).is_some_and(|after| after != *status);
        let changed: Vec<&str> = Status::ALL.into_iter().filter(is_changed).map(Status::name).collect();
        assert_eq!(quoted(offered, ']'), changed, "{verb}");
    }
    let (_, deletable) = after("verb: 'delete'").split_once("from: ").unwrap();
    assert!(deletable.starts_with("FINAL,"), "{deletable}");
    let migration = read("migrations/20261123000001_create_jobs.sql");
    let (_, wakes) = migration.split_once("new.status in (").unwrap();
    assert_eq!(quoted(wakes, ')'), final_statuses);
}

#[test]
fn the_final_statuses_of_python_programs_are_those_of_the_server() {
    let names = Status::FINAL.map(|status| format!("\"{}\"", status.name())).join(", ");
    for (file, list) in
        [("benches/trials/server.py", "FINAL"), ("python/distillery/_status.py", "ENDED"), ("scripts/demo.py", "FINAL")]
    {
        assert!(read(file).contains(&format!("\n{list} = ({names})\n")), "{file}");
    }
}

#[test]
fn a_documented_job_resolves_to_the_documented_specification() {
    let text = read("docs/jobs.md");
    let jobs: Vec<Value> =
        code_blocks(&text).into_iter().filter_map(|block| serde_json::from_str(block).ok()).collect();
    let [minimal, resolved] = jobs.as_slice() else { panic!("two documents, not {}", jobs.len()) };
    assert_eq!(json!(Request::read(minimal).complete().unwrap()), *resolved);
}

#[test]
fn the_documented_sweep_is_the_one_of_the_examples() {
    let text = read("docs/sweeps.md");
    let mut sweeps =
        code_blocks(&text).into_iter().filter_map(|block| block.split_once("/v1/sweeps ")?.1.split_once("-d '"));
    let (_, document) = sweeps.next().expect("a sweep by curl");
    // The shell puts the variable between two quoted texts.
    let document = document.replace("'$TEACHER'", "$TEACHER");
    let document: Value = serde_json::from_str(document.trim_end().trim_end_matches('\'')).unwrap();
    assert_eq!(document, serde_json::from_str::<Value>(&read("examples/digits/sweep.json")).unwrap());
    assert!(sweeps.next().is_none());
}

/// The commands of the README's session, with their continuation lines.
fn session() -> Vec<String> {
    let readme = read("README.md");
    let (_, session) = readme.split_once("## A session").unwrap();
    let (session, _) = session.split_once("\n## ").unwrap();
    let blocks = code_blocks(session);
    blocks
        .iter()
        .flat_map(|block| format!("\n{block}").split("\n$ ").skip(1).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn the_sessions_commands_are_understood() {
    let mut understood = 0;
    for command in session().iter().filter(|command| command.starts_with("target/release/distillery ")) {
        let line = command.lines().next().unwrap();
        Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
        understood += 1;
    }
    assert_eq!(understood, 3);
    let teacher: Value = serde_json::from_str(&read("examples/digits/teacher-local.json")).unwrap();
    let teacher = TrainingPlan::parse(&teacher).unwrap();
    assert_eq!(teacher.student.architecture.map(|architecture| architecture.name), Some("resnet20"));
}

#[tokio::test]
async fn the_sessions_requests_are_answered_as_shown() {
    let api = Api::start_with(|settings| settings.datasets_dir = root().join("examples/data")).await;
    let teacher = api.upload("?architecture=resnet20&num_classes=10", checkpoint("resnet20", 10)).await.expect(201);
    let session = session();
    let document = session.iter().find_map(|command| command.strip_prefix("cat > job.json <<END\n")).unwrap();
    let document = document.split_once("\nEND").unwrap().0.replace("$TEACHER", teacher["id"].as_str().unwrap());
    let job: Value = serde_json::from_str(&document).unwrap();
    api.post("/v1/jobs?dry_run=true", &job).await.expect(200);

    let faulty = session.iter().find(|command| command.contains("-d '")).unwrap();
    let (_, rest) = faulty.split_once("-d '").unwrap();
    let (body, shown) = rest.split_once('\'').unwrap();
    let (_, errors) = shown.split_once("\"errors\":").unwrap();
    let errors: Value = serde_json::from_str(errors.trim_end().strip_suffix('}').unwrap()).unwrap();
    let problem = api.post("/v1/jobs", &serde_json::from_str(body).unwrap()).await.problem(422);
    assert_eq!(problem["errors"], errors);
}

#[tokio::test]
async fn every_documented_metric_is_scraped_and_no_other() {
    let api = Api::start().await;
    api.get("/v1/jobs").await.expect(200);
    let scraped = api.get("/metrics").await.text();
    let names = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let scraped: BTreeSet<&str> = names.collect();
    let text = read("docs/operations.md");
    let cells = first_cells(&text, "Monitoring");
    let documented = cells.into_iter().flat_map(code_spans).map(|name| name.split('{').next().unwrap());
    assert_eq!(documented.collect::<BTreeSet<_>>(), scraped);
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/distillery.json"] {
        let text = read(path);
        for name in
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("distillery_"))
        {
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            assert!(scraped.contains(name) || scraped.contains(base), "{path}: {name}");
        }
    }
}
