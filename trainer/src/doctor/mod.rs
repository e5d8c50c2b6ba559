//! `distillery-trainer doctor`: whether this machine, or the image that is being built, has what jobs on GPUs need, and
//! what to do if it does not.

mod findings;
mod gpu;

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;

use tch::{Cuda, Device};

use crate::device::cuda::{self, Plugin};
use crate::device::{self, card};
use crate::error::{Error, Result, caught};
use distillery_core::architecture::{self, Architecture};
use distillery_core::trainer_flags::DoctorArgs;
use findings::{CheckState, Diagnosis};

/// Runs all checks and prints what they found. Succeeds if none failed.
#[must_use]
pub fn run(args: &DoctorArgs) -> ExitCode {
    // A panic becomes a finding.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let diagnosis = caught(|| diagnose(args));
    std::panic::set_hook(usual);
    match diagnosis {
        Ok(diagnosis) => {
            let text = if args.json { diagnosis.to_json() } else { diagnosis.to_text() };
            // Nobody may read it.
            let _ = writeln!(io::stdout(), "{text}");
            if diagnosis.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the checks are for: the devices that have to work, or an image that is being built.
#[derive(Debug, PartialEq, Eq)]
enum DoctorTarget {
    Cpu,
    /// The listed GPUs; all if there is no list.
    Gpus(Option<Vec<String>>),
    /// What GPUs need, but no GPU.
    Image,
}

fn target(args: &DoctorArgs, shows_gpu: bool) -> DoctorTarget {
    match args.device.as_str() {
        _ if args.without_gpu => DoctorTarget::Image,
        "auto" if shows_gpu => DoctorTarget::Gpus(None),
        "auto" => DoctorTarget::Cpu,
        list if list.split(',').all(|name| name.trim() == "cpu") => DoctorTarget::Cpu,
        list => DoctorTarget::Gpus(Some(list.split(',').map(|name| name.trim().to_owned()).collect())),
    }
}

fn diagnose(args: &DoctorArgs) -> Result<Diagnosis> {
    let architecture = architecture::named(&args.architecture).map_err(|unknown| Error::user(unknown.to_string()))?;
    device::prepare(device::cores());
    let mut diagnosis = Diagnosis::new();
    diagnosis.add("libtorch", CheckState::Fine, env!("LIBTORCH_VERSION"));
    match target(args, device::shows_gpu()) {
        DoctorTarget::Cpu => check_cpu(&mut diagnosis, args),
        DoctorTarget::Image => {
            diagnosis.add(
                "driver",
                CheckState::NotChecked,
                "an image is checked without one; the machine that runs it needs it",
            );
            if check_libraries(&mut diagnosis) {
                check_plugin(&mut diagnosis, CheckState::Failed);
            }
        }
        DoctorTarget::Gpus(listed) => check_gpus(&mut diagnosis, listed, architecture, args),
    }
    Ok(diagnosis)
}

fn check_cpu(diagnosis: &mut Diagnosis, args: &DoctorArgs) {
    if args.device == "auto" {
        let message = "this machine shows no NVIDIA GPU, so jobs train on its CPU: if it has one, install its driver";
        diagnosis.add("driver", CheckState::NotChecked, message);
    }
    match caught(|| gpu::compute(Device::Cpu)) {
        Ok(()) => diagnosis.add("cpu", CheckState::Fine, &format!("computes with {} cores", device::cores())),
        Err(error) => diagnosis.add("cpu", CheckState::Failed, &error.message),
    }
}

fn check_gpus(
    diagnosis: &mut Diagnosis,
    listed: Option<Vec<String>>,
    architecture: &'static Architecture,
    args: &DoctorArgs,
) {
    let (state, text) = of_driver(env!("LIBTORCH_VERSION"), card::driver_version(), card::cuda_of_driver());
    diagnosis.add("driver", state, &text);
    if state == CheckState::Failed || !check_libraries(diagnosis) {
        return;
    }
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if count == 0 {
        let found = device::no_gpu();
        // Where an NVSwitch joins GPUs, none can be used without the service.
        let advice = if found.contains("system not yet initialized") {
            "start the service nvidia-fabricmanager, in the driver's version"
        } else {
            "compare `nvidia-smi`, look at CUDA_VISIBLE_DEVICES, and for /dev/nvidia0 and /dev/nvidia-uvm, which a \
             container must be given"
        };
        let message = format!("{found}: {advice}");
        diagnosis.add("gpus", CheckState::Failed, &message);
        return;
    }
    let names = listed.unwrap_or_else(|| (0..count).map(|index| format!("cuda:{index}")).collect());
    let plugin = check_plugin(diagnosis, CheckState::Warning);
    // As in runs.
    cuda::compute_deterministically();
    for name in names {
        gpu::check(diagnosis, &name, plugin.as_ref(), architecture, args);
    }
}

/// Whether the driver is new enough for the CUDA that libtorch was built with. `supported` is the newest CUDA that the
/// driver knows.
fn of_driver(libtorch: &str, version: Option<String>, supported: Option<(i32, i32)>) -> (CheckState, String) {
    let advice = "CUDA 13 needs driver 580 or later";
    let (version, supported) = match (version, supported) {
        (None, None) => return (CheckState::Failed, format!("no NVIDIA driver is loaded: {advice}")),
        (version, None) => {
            let version = version.unwrap_or_default();
            let message = format!(
                "driver {version} is loaded, but libcuda.so.1 cannot be opened: install the driver's libraries, or \
                 give the container all of it (NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
            );
            return (CheckState::Failed, message);
        }
        (version, Some(supported)) => (version.unwrap_or_else(|| "of unknown version".to_owned()), supported),
    };
    let (major, minor) = supported;
    let found = format!("driver {version}, for CUDA {major}.{minor} at most");
    match cuda_of_build(libtorch) {
        // Versions of one major number work with each other's drivers.
        Some((needed, _)) if major < needed => {
            (CheckState::Failed, format!("{found}, and libtorch {libtorch} needs CUDA {needed}: {advice}"))
        }
        _ => (CheckState::Fine, found),
    }
}

/// The version of CUDA in a version of libtorch such as `2.11.0+cu130`; `None` if it was built without.
fn cuda_of_build(libtorch: &str) -> Option<(i32, i32)> {
    let digits = libtorch.split_once("+cu")?.1;
    let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// libtorch's CUDA half and cuDNN. Returns whether they are there.
fn check_libraries(diagnosis: &mut Diagnosis) -> bool {
    if let Err(reason) = cuda::load() {
        let message = format!(
            "libtorch's CUDA half cannot be opened: {reason}. Install libtorch for GPUs: TORCH_VARIANT=gpu \
             scripts/setup libtorch cuda_headers, and build again"
        );
        diagnosis.add("cuda", CheckState::Failed, &message);
        return false;
    }
    diagnosis.add("cuda", CheckState::Fine, "libtorch's CUDA half opens");
    match card::cudnn_version() {
        Some(version) => diagnosis.add("cudnn", CheckState::Fine, &version),
        None => diagnosis.add("cudnn", CheckState::Failed, "cuDNN is not there: install libtorch for GPUs again"),
    }
    true
}

/// The plugin, with CUDA graphs and NCCL. `missing`: what its absence means.
fn check_plugin(diagnosis: &mut Diagnosis, missing: CheckState) -> Option<Rc<Plugin>> {
    let plugin = match Plugin::load() {
        Ok(plugin) => plugin,
        Err(reason) => {
            let message =
                format!("{reason}. Without it, steps are issued one by one, and gradients pass through the CPU");
            diagnosis.add("plugin", missing, &message);
            diagnosis.add("nccl", CheckState::NotChecked, "it is in the plugin");
            return None;
        }
    };
    diagnosis.add("plugin", CheckState::Fine, "CUDA graphs can be recorded");
    match (plugin.nccl(), card::nccl_version()) {
        (Ok(_), Some(version)) => diagnosis.add("nccl", CheckState::Fine, &version),
        (Ok(_), None) => {
            diagnosis.add("nccl", missing, "NCCL's library is not loaded: install libtorch for GPUs again");
        }
        (Err(reason), _) => diagnosis.add("nccl", missing, &reason),
    }
    Some(plugin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_judged_by_the_cuda_that_it_knows_and_libtorch_was_built_with() {
        let judge = |version: Option<&str>, supported| of_driver("2.11.0+cu130", version.map(str::to_owned), supported);
        assert_eq!(judge(Some("580.65.06"), Some((13, 0))).0, CheckState::Fine);
        // A later driver, and one whose version is hidden in a container.
        assert_eq!(judge(Some("610.1"), Some((14, 1))).0, CheckState::Fine);
        assert_eq!(judge(None, Some((13, 1))).0, CheckState::Fine);
        let (state, text) = judge(Some("550.54.15"), Some((12, 4)));
        assert_eq!(state, CheckState::Failed);
        assert!(text.contains("550.54.15") && text.contains("CUDA 12.4") && text.contains("580"), "{text}");
        let (state, text) = judge(Some("580.65.06"), None);
        assert!(state == CheckState::Failed && text.contains("libcuda.so.1"), "{text}");
        let (state, text) = judge(None, None);
        assert!(state == CheckState::Failed && text.contains("no NVIDIA driver"), "{text}");
    }

    #[test]
    fn libtorchs_version_names_its_cuda() {
        assert_eq!(cuda_of_build("2.11.0+cu130"), Some((13, 0)));
        assert_eq!(cuda_of_build("2.11.0+cu128"), Some((12, 8)));
        assert_eq!(
            (cuda_of_build("2.11.0+cpu"), cuda_of_build("2.11.0"), cuda_of_build("2.11.0+cu")),
            (None, None, None)
        );
    }

    #[test]
    fn what_has_to_work_follows_from_the_flags_and_the_machine() {
        let args = |device: &str, without_gpu| DoctorArgs {
            device: device.to_owned(),
            without_gpu,
            json: false,
            architecture: "resnet8x4".to_owned(),
            image_size: 32,
            batch_size: 64,
        };
        assert_eq!(target(&args("auto", false), false), DoctorTarget::Cpu);
        assert_eq!(target(&args("auto", false), true), DoctorTarget::Gpus(None));
        assert_eq!(target(&args("cpu,cpu", false), true), DoctorTarget::Cpu);
        assert_eq!(target(&args("auto", true), true), DoctorTarget::Image);
        let listed = DoctorTarget::Gpus(Some(vec!["cuda:1".to_owned(), "cuda:0".to_owned()]));
        assert_eq!(target(&args("cuda:1, cuda:0", false), false), listed);
    }
}
