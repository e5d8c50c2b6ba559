//! Lets `distillery-trainer` find libtorch where it was linked from, without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        let lib = std::path::PathBuf::from(lib);
        println!("cargo:rustc-link-arg-bin=distillery-trainer=-Wl,-rpath,{}", lib.display());
    }
}
