//! Finds the API token: in a named file, in the environment, or in the user's configuration.

use std::path::{Path, PathBuf};

use super::error::Error;
use crate::private_file;

/// Most bytes of a file with a token.
const LONGEST: u64 = 4096;

/// The token to send; `None` if there is none, which a server without tokens accepts from its own machine.
///
/// # Errors
/// [`Error::Access`]: a file cannot be read, can be read by others, or has no token.
pub fn find(named: Option<&Path>) -> Result<Option<String>, Error> {
    if let Some(path) = named {
        return read(path)?.map(Some).ok_or_else(|| {
            Error::Access(format!("there is no file {}: write the token into it, or name another", path.display()))
        });
    }
    if let Some(token) = std::env::var_os("DISTILLERY_TOKEN").filter(|token| !token.is_empty()) {
        let token = token.into_string().unwrap_or_default();
        return check(token.trim(), "DISTILLERY_TOKEN").map(Some);
    }
    default_file().map_or(Ok(None), |path| read(&path))
}

/// `distillery/token` in the directory of the user's configuration.
fn default_file() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(directory.join("distillery/token"))
}

/// The token in a file; `None` without the file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let text = private_file::read(path, LONGEST).map_err(Error::Access)?;
    text.map(|text| check(text.trim(), &path.display().to_string())).transpose()
}

fn check(token: &str, source: &str) -> Result<String, Error> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Access(format!(
            "{source} has no token: expected the one line that `distillery token create` printed"
        )));
    }
    Ok(token.to_owned())
}
