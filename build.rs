//! Lets `distillery-trainer` and the tests find libtorch where it was linked from, without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        let lib = std::path::PathBuf::from(lib);
        // To every target: unit tests have no instruction of their own. A program that uses nothing of libtorch
        // (`distillery`) gets the search path only, and does not need the library.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
