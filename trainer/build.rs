//! Compiles `cpp/` against libtorch, and `cuda/` where CUDA's headers are; and lets `distillery-trainer` and the tests find
//! libtorch where it was linked from, without LD_LIBRARY_PATH.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cpp");
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        let lib = PathBuf::from(lib);
        compile(&lib.with_file_name("include"));
        compile_plugin(&lib);
        // To every target: unit tests have no instruction of their own. A program that uses nothing of libtorch
        // (`distillery`) gets the search path only, and does not need the library.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo:rustc-env=LIBTORCH_VERSION={}", version(&lib.with_file_name("version.py")));
    }
}

fn build() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").pic(true).opt_level(3).debug(false);
    build
}

/// libtorch's headers have warnings of their own.
fn with_torch(include: &Path) -> cc::Build {
    let mut build = build();
    build.include(include).include(include.join("torch/csrc/api/include")).warnings(false).flag("-Werror=return-type");
    build
}

fn compile(include: &Path) {
    // The loops for each level of x86-64; the program chooses when it runs.
    let is_x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let v3: &[_] = &["-march=x86-64-v3"];
    let v4: &[_] = &["-march=x86-64-v4", "-mprefer-vector-width=512"];
    let brain: &[_] = &["-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16"];
    let (norm, winograd) = ("cpp/norm_loops.cpp", "cpp/winograd_loops.cpp");
    compile_loops("baseline", &[], &[norm]);
    if is_x86_64 {
        compile_loops("v3", v3, &[norm, winograd]);
        compile_loops("v4", v4, &[norm, winograd]);
        compile_loops("v4_bf16", brain, &[winograd]);
    }
    // at::parallel_for is a loop on one thread where it is compiled without OpenMP. libtorch brings GNU's library, which
    // only GNU's compiler makes calls to.
    let mut torch = with_torch(include);
    if torch.get_compiler().is_like_gnu() {
        torch.flag("-fopenmp");
        println!("cargo:rustc-link-lib=gomp");
    } else {
        println!("cargo:warning=without GNU's compiler the trainer's own operators use one thread: set CXX=g++");
        torch.define("DISTILLERY_ONE_THREAD", None);
    }
    torch
        .include("cpp")
        .files([
            "cpp/context.cpp",
            "cpp/inference.cpp",
            "cpp/norm.cpp",
            "cpp/optimizer.cpp",
            "cpp/ranks.cpp",
            "cpp/unfolded.cpp",
            "cpp/winograd.cpp",
        ])
        .compile("distillery_torch");
}

fn compile_loops(variant: &str, flags: &[&str], files: &[&str]) {
    let mut build = build();
    build.files(files).define("VARIANT", variant).flag("-ffp-contract=fast");
    // Vectors are passed between inlined functions only; and GCC 12 takes its own header's vectors without a value for mistakes.
    for flag in ["-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized"] {
        build.flag_if_supported(flag);
    }
    for flag in flags {
        build.flag(flag);
    }
    build.compile(&format!("distillery_loops_{variant}"));
}

/// Makes `cuda.so` of `cuda/`, which the program holds and opens where there is a GPU. Without CUDA's headers
/// (`scripts/setup cuda_headers`, or a directory that DISTILLERY_CUDA_HEADERS names), or with a libtorch for the CPU only,
/// it is empty.
fn compile_plugin(lib: &Path) {
    const HEADERS: &str = "DISTILLERY_CUDA_HEADERS";
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed={HEADERS}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("cuda.so");
    let headers =
        std::env::var_os(HEADERS).map_or_else(|| "../.deps/cuda_headers/nvidia/cu13/include".into(), PathBuf::from);
    if !headers.join("crt/host_config.h").exists() || !lib.join("libtorch_cuda.so").exists() {
        std::fs::write(&out, []).expect("cargo's directory can be written");
        return;
    }
    // Of the wheel that torch's own needs on a machine with a GPU.
    let nccl = lib.ancestors().nth(2).expect("libtorch is in a directory").join("nvidia/nccl/include");
    let compiler = with_torch(&lib.with_file_name("include")).include(&headers).include(&nccl).get_compiler();
    let mut command = compiler.to_command();
    // So that what is missing is found here rather than where there is a GPU.
    command.args(["-shared", "-s", "-Wl,-z,defs", "cuda/graph.cpp"]);
    if nccl.join("nccl.h").exists() && headers.join("nv/target").exists() {
        command.args(["-DUSE_C10D_NCCL", "cuda/nccl.cpp"]);
    }
    command.arg("-o").arg(&out).arg("-L").arg(lib);
    command.args(["-Wl,--no-as-needed", "-ltorch_cuda", "-lc10_cuda", "-ltorch_cpu", "-lc10"]);
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// PyTorch's version file has a line `__version__ = '2.11.0+cu130'`.
fn version(path: &Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    line.map_or_else(|| "2.11".to_owned(), |version| version.trim_matches(['\'', '"']).to_owned())
}
