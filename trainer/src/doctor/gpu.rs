//! The checks of one GPU, each of which computes something there.

use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::findings::{CheckState, Diagnosis, Fused, Gpu};
use crate::device::card::Card;
use crate::device::cuda::{Plugin, Tf32};
use crate::device::{self, card};
use crate::error::{Error, Result, caught};
use crate::models;
use distillery_core::architecture::Architecture;
use distillery_core::trainer_flags::DoctorArgs;

/// Classes of the teacher whose convolutions are counted. It has random weights.
const CLASSES: u32 = 100;

/// Opens a GPU, computes on it, records a graph, and counts the layers of a teacher that cuDNN fuses.
pub(super) fn check(
    diagnosis: &mut Diagnosis,
    name: &str,
    plugin: Option<&Rc<Plugin>>,
    architecture: &'static Architecture,
    args: &DoctorArgs,
) {
    let device = match caught(|| device::open(name)) {
        Ok(device) => device,
        Err(error) => return diagnosis.add(name, CheckState::Failed, &error.message),
    };
    let (card, memory) = (Card::of(device), card::memory(device));
    let described = card.as_ref().map_or_else(|| "a device without a name".to_owned(), ToString::to_string);
    let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let room = memory.map_or_else(String::new, |memory| {
        format!(", {:.1} of {:.1} GiB free", gibibytes(memory.free), gibibytes(memory.total))
    });
    diagnosis.add(name, CheckState::Fine, &format!("{described}{room}"));
    let mut gpu = Gpu {
        device: name.to_owned(),
        card,
        memory_total_bytes: memory.map(|memory| memory.total),
        memory_free_bytes: memory.map(|memory| memory.free),
        fused: Vec::new(),
    };
    let arithmetic = format!("{name} arithmetic");
    match caught(|| compute(device)) {
        Ok(()) => {
            let kinds = if device::multiplies_bfloat16(device) { "float32 and bfloat16" } else { "float32" };
            diagnosis.add(&arithmetic, CheckState::Fine, &format!("convolutions in {kinds} are those of the CPU"));
            check_graphs(diagnosis, name, device, plugin);
            check_fused(diagnosis, &mut gpu, device, architecture, args);
        }
        Err(error) => diagnosis.add(&arithmetic, CheckState::Failed, &error.message),
    }
    diagnosis.add_gpu(gpu);
}

/// Compares a convolution on a device with the CPU's, in each precision that the device multiplies.
pub(super) fn compute(device: Device) -> Result<()> {
    let _in_full = Tf32::set(false);
    let numbers = |size: &[i64]| {
        let count = size.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.37).sin().view(size)
    };
    let (images, weight) = (numbers(&[8, 16, 16, 16]), numbers(&[32, 16, 3, 3]));
    let expected = images.f_conv2d(&weight, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
    let kinds = [(Kind::Float, 1e-4), (Kind::BFloat16, 2e-2)];
    let bfloat16 = device::multiplies_bfloat16(device);
    for (kind, tolerance) in kinds.into_iter().filter(|(kind, _)| *kind == Kind::Float || bfloat16) {
        let on_device = |tensor: &Tensor| Ok::<_, Error>(tensor.f_to_device(device)?.f_to_kind(kind)?);
        let (images, weight) = (on_device(&images)?, on_device(&weight)?);
        let made = images.f_conv2d(&weight, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
        let made = made.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
        let difference = ((&made - &expected).norm() / expected.norm()).f_double_value(&[])?;
        // NaN does not count as a small difference.
        if difference.is_nan() || difference > tolerance {
            return Err(Error::machine(format!(
                "a convolution in {kind:?} is off by {difference:.1e} of its size: test the GPU's memory and its driver"
            )));
        }
    }
    Ok(())
}

/// Records an operation as a graph and replays it.
fn check_graphs(diagnosis: &mut Diagnosis, name: &str, device: Device, plugin: Option<&Rc<Plugin>>) {
    let check = format!("{name} graphs");
    let (Some(plugin), Device::Cuda(index)) = (plugin, device) else {
        return diagnosis.add(&check, CheckState::NotChecked, "they are in the plugin");
    };
    match caught(|| replayed(plugin, device, index)) {
        Ok(()) => diagnosis.add(&check, CheckState::Fine, "a recorded operation is replayed"),
        Err(error) => {
            diagnosis.add(&check, CheckState::Warning, &format!("steps will be issued one by one: {}", error.message));
        }
    }
}

fn replayed(plugin: &Rc<Plugin>, device: Device, index: usize) -> Result<()> {
    plugin.begin(index).map_err(Error::machine)?;
    let mut number = Tensor::full([1], 20.0, (Kind::Float, device));
    let double = |number: &Tensor| number * 2.0;
    // The first one loads the kernel, which cannot be recorded.
    drop(double(&number));
    let mut made = None;
    let graph = plugin.record(&mut || made = Some(double(&number))).map_err(Error::machine)?;
    let _ = number.fill_(21.0);
    graph.replay().map_err(Error::machine)?;
    let found = made.as_ref().map_or(f64::NAN, |made| made.double_value(&[0]));
    if found == 42.0 { Ok(()) } else { Err(Error::machine(format!("a replayed graph doubles 21 to {found}"))) }
}

/// Counts the convolutions of a teacher that cuDNN fuses.
fn check_fused(
    diagnosis: &mut Diagnosis,
    gpu: &mut Gpu,
    device: Device,
    architecture: &'static Architecture,
    args: &DoctorArgs,
) {
    let check = format!("{} fusion", gpu.device);
    let mut network = models::build(architecture, CLASSES, 0);
    let counted = caught(|| {
        network.place(device, Kind::Float);
        let mut counts = Vec::new();
        for (kind, precision) in [(Kind::Float, "float32"), (Kind::BFloat16, "bfloat16")] {
            if kind == Kind::Float || device::multiplies_bfloat16(device) {
                network.compute_in(kind);
                counts
                    .extend(network.freeze(args.batch_size, args.image_size).map(|count| Fused::new(precision, count)));
            }
        }
        Ok(counts)
    });
    match counted {
        Ok(counts) => {
            let told: Vec<String> =
                counts.iter().map(|Fused { precision, fused, of }| format!("{fused} of {of} in {precision}")).collect();
            let told = format!(
                "cuDNN fuses bias, sum and ReLU with a {}'s convolutions: {}",
                architecture.name,
                told.join(", ")
            );
            let has_none = counts.iter().any(|count| count.fused == 0);
            diagnosis.add(&check, if has_none { CheckState::Warning } else { CheckState::Fine }, &told);
            gpu.fused = counts;
        }
        Err(error) => diagnosis.add(&check, CheckState::Failed, &error.message),
    }
}
