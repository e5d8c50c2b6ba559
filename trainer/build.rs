//! Compiles `cpp/` against libtorch, and lets `distillery-trainer` and the tests find libtorch where it was linked
//! from, without LD_LIBRARY_PATH.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cpp");
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        let lib = PathBuf::from(lib);
        compile(&lib.with_file_name("include"));
        // To every target: unit tests have no instruction of their own. A program that uses nothing of libtorch
        // (`distillery`) gets the search path only, and does not need the library.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo:rustc-env=LIBTORCH_VERSION={}", version(&lib.with_file_name("version.py")));
    }
}

fn compile(include: &Path) {
    let build = || {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").pic(true).opt_level(3).debug(false);
        build
    };
    // The loops for each level of x86-64; the program chooses when it runs.
    let levels: &[_] = if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        &[("baseline", None), ("v3", Some("-march=x86-64-v3")), ("v4", Some("-march=x86-64-v4"))]
    } else {
        &[("baseline", None)]
    };
    for (name, flag) in levels {
        let mut build = build();
        build.files(["cpp/norm_loops.cpp", "cpp/winograd_loops.cpp"]).define("VARIANT", *name);
        // Vectors are passed between inlined functions only.
        build.flag("-Wno-psabi");
        if let Some(flag) = flag {
            build.flag(flag).flag("-mprefer-vector-width=512");
        }
        build.compile(&format!("distillery_loops_{name}"));
    }
    // libtorch's headers have warnings of their own.
    build()
        .include(include)
        .include(include.join("torch/csrc/api/include"))
        .warnings(false)
        .flag("-Werror=return-type")
        .files(["cpp/inference.cpp", "cpp/norm.cpp", "cpp/optimizer.cpp", "cpp/winograd.cpp"])
        .compile("distillery_torch");
}

/// PyTorch's version file has a line `__version__ = '2.11.0+cu130'`.
fn version(path: &Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    line.map_or_else(|| "2.11".to_owned(), |version| version.trim_matches(['\'', '"']).to_owned())
}
