//! Lets `distillery-trainer` and the tests find libtorch where it was linked from, without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        let lib = std::path::PathBuf::from(lib);
        // To every target: unit tests have no instruction of their own. A program that uses nothing of libtorch
        // (`distillery`) gets the search path only, and does not need the library.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo:rustc-env=LIBTORCH_VERSION={}", version(&lib.with_file_name("version.py")));
    }
}

/// PyTorch's version file has a line `__version__ = '2.11.0+cu130'`.
fn version(path: &std::path::Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    line.map_or_else(|| "2.11".to_owned(), |version| version.trim_matches(['\'', '"']).to_owned())
}
