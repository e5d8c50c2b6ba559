//! Compiles `cpp/` against libtorch, and `cuda/` if CUDA's headers are available; neither for Clippy. Sets the library
//! search path, so that `distillery-trainer` and the tests find the libtorch that they were linked to without
//! LD_LIBRARY_PATH.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cpp");
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        let lib = PathBuf::from(lib);
        if is_linked() {
            compile(&lib.with_file_name("include"));
            compile_plugin(&lib);
        } else {
            std::fs::write(plugin(), []).expect("cargo's directory can be written");
        }
        // For every target, because there is no instruction for unit tests alone.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo:rustc-env=LIBTORCH_VERSION={}", version(&lib.with_file_name("version.py")));
    }
}

/// Clippy links nothing, and cargo keeps what this script makes for it apart from what it makes for a build: the C++
/// would be compiled twice.
fn is_linked() -> bool {
    const WRAPPER: &str = "RUSTC_WORKSPACE_WRAPPER";
    println!("cargo:rerun-if-env-changed={WRAPPER}");
    let wrapper = std::env::var_os(WRAPPER).map(PathBuf::from);
    wrapper.is_none_or(|wrapper| wrapper.file_stem().is_none_or(|name| name != "clippy-driver"))
}

/// The compiled `cuda/`, which the program contains.
fn plugin() -> PathBuf {
    PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("cuda.so")
}

fn build() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").pic(true).opt_level(3).debug(false);
    build
}

/// With libtorch's headers, whose warnings are ignored.
fn with_torch(include: &Path) -> cc::Build {
    let mut build = build();
    build.include(include).include(include.join("torch/csrc/api/include")).warnings(false).flag("-Werror=return-type");
    // As libtorch itself: without it some of its classes have other members, and their inline functions check values
    // that nobody sets.
    build.define("NDEBUG", None);
    build
}

fn compile(include: &Path) {
    // Loops are compiled for each level of x86-64, and the program chooses at run time.
    let is_x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let v3: &[_] = &["-march=x86-64-v3"];
    let v4: &[_] = &["-march=x86-64-v4", "-mprefer-vector-width=512"];
    let v4_bf16: &[_] = &["-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512bf16"];
    let (norm, winograd) = ("cpp/norm_loops.cpp", "cpp/winograd_loops.cpp");
    compile_loops("baseline", &[], &[norm]);
    if is_x86_64 {
        compile_loops("v3", v3, &[norm, winograd]);
        compile_loops("v4", v4, &[norm, winograd]);
        compile_loops("v4_bf16", v4_bf16, &[winograd]);
    }
    // Without OpenMP, at::parallel_for uses one thread. libtorch ships GNU's OpenMP library, which only GNU's compiler
    // can call.
    let mut torch = with_torch(include);
    if torch.get_compiler().is_like_gnu() {
        torch.flag("-fopenmp");
        println!("cargo:rustc-link-lib=gomp");
    } else {
        println!("cargo:warning=the compiler is not GNU's, so the trainer's own operators use one thread: set CXX=g++");
        torch.define("DISTILLERY_ONE_THREAD", None);
    }
    torch.include("cpp").file("cpp/operators.cpp").compile("distillery_torch");
}

fn compile_loops(variant: &str, flags: &[&str], files: &[&str]) {
    let mut build = build();
    build.files(files).define("VARIANT", variant).flag("-ffp-contract=fast");
    // Vectors are only passed between inlined functions. GCC 12 warns about uninitialised vectors in its own header.
    for flag in ["-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized"] {
        build.flag_if_supported(flag);
    }
    for flag in flags {
        build.flag(flag);
    }
    build.compile(&format!("distillery_loops_{variant}"));
}

/// Compiles `cuda/` to `cuda.so`, which the program contains and loads if there is a GPU. It is empty without CUDA's
/// headers (from `scripts/setup cuda_headers` or the directory in DISTILLERY_CUDA_HEADERS), and with a libtorch for the
/// CPU only.
fn compile_plugin(lib: &Path) {
    const HEADERS: &str = "DISTILLERY_CUDA_HEADERS";
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed={HEADERS}");
    let out = plugin();
    let headers =
        std::env::var_os(HEADERS).map_or_else(|| "../.deps/cuda_headers/nvidia/cu13/include".into(), PathBuf::from);
    if !headers.join("crt/host_config.h").exists() || !lib.join("libtorch_cuda.so").exists() {
        std::fs::write(&out, []).expect("cargo's directory can be written");
        return;
    }
    // From the wheel that torch depends on for GPUs. It is beside torch itself, which a link may lead to, or comes from
    // `scripts/setup nccl_headers`.
    let installed = lib.canonicalize().unwrap_or_else(|_| lib.to_owned());
    let beside = installed.ancestors().nth(2).expect("libtorch is in a directory").join("nvidia/nccl/include");
    let own = PathBuf::from("../.deps/nccl_headers/nvidia/nccl/include");
    let nccl = if beside.join("nccl.h").exists() { beside } else { own };
    let mut build = with_torch(&lib.with_file_name("include"));
    // The last takes the place of what the headers' directory lacks.
    let compiler = build.include(&headers).include(&nccl).include("cuda/opaque").get_compiler();
    let mut command = compiler.to_command();
    // With -z defs, missing symbols are found here rather than on a machine with a GPU.
    command.args(["-shared", "-s", "-Wl,-z,defs", "cuda/graph.cpp"]);
    if nccl.join("nccl.h").exists() && headers.join("nv/target").exists() {
        command.args(["-DUSE_C10D_NCCL", "cuda/nccl.cpp"]);
    }
    command.arg("-o").arg(&out).arg("-L").arg(lib);
    command.args(["-Wl,--no-as-needed", "-ltorch_cuda", "-lc10_cuda", "-ltorch_cpu", "-lc10"]);
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// The version in PyTorch's version file, which has a line `__version__ = '2.11.0+cu130'`.
fn version(path: &Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    line.map_or_else(|| "2.11".to_owned(), |version| version.trim_matches(['\'', '"']).to_owned())
}
