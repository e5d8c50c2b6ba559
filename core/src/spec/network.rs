//! The networks that a document leaves to its checkpoints, as its reader has found them.

use super::{DistillationSpec, Fault, Method, TrainingSpec};
use crate::architecture::Architecture;
use crate::exported::{Description, Mode};
use crate::text::counted;

/// A network that a document does not name.
#[derive(Debug, Clone)]
pub enum FoundNetwork {
    /// The only architecture that the checkpoint fits.
    Known(&'static Architecture),
    /// The checkpoint is a network of its own.
    Exported(Box<DescribedNetwork>),
}

/// What a specification depends on of an exported network.
#[derive(Debug, Clone, PartialEq)]
pub struct DescribedNetwork {
    /// For people.
    pub name: String,
    pub description: Description,
}

/// The networks of a document, where it does not name them.
#[derive(Debug, Clone, Default)]
pub struct FoundNetworks {
    pub teacher: Option<FoundNetwork>,
    pub student: Option<FoundNetwork>,
}

impl FoundNetwork {
    pub(super) fn architecture(&self) -> Option<&'static Architecture> {
        if let Self::Known(architecture) = self { Some(architecture) } else { None }
    }

    pub(super) fn exported(&self) -> Option<&DescribedNetwork> {
        if let Self::Exported(network) = self { Some(network) } else { None }
    }
}

impl FoundNetworks {
    fn exported(&self) -> impl Iterator<Item = (&'static str, &DescribedNetwork)> {
        let networks = [("student", &self.student), ("teacher", &self.teacher)].into_iter();
        networks.filter_map(|(role, network)| Some((role, network.as_ref()?.exported()?)))
    }

    /// The side in pixels of the images for which a network was exported, the student's first.
    pub(super) fn side(&self) -> Option<u32> {
        self.exported().find_map(|(_, network)| network.side())
    }

    /// Those of the scales that every exported network has a cell of its feature map for, but at least the first.
    /// `None` if that is all of them.
    pub(super) fn cut(&self, scales: &[u32]) -> Option<Vec<u32>> {
        let side = self.exported().filter_map(|(_, network)| network.map_side()).min()?;
        let cut: Vec<u32> = scales
            .iter()
            .enumerate()
            .filter(|&(at, &scale)| at == 0 || u64::from(scale) <= side)
            .map(|(_, &m)| m)
            .collect();
        (cut.len() < scales.len()).then_some(cut)
    }

    /// What keeps exported networks from being used as a document says.
    pub(super) fn faults(&self, method: Method, image_size: u32, is_size_given: bool) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (role, network) in self.exported() {
            let mut add =
                |field: &str, detail: String| faults.push(Fault { pointer: format!("/{role}{field}"), detail });
            let name = &network.name;
            if role == "student" && network.description.mode == Mode::Evaluation {
                add("/checkpoint", network.in_evaluation());
            }
            if role == "student" && network.description.parameters == 0 {
                add("/checkpoint", network.without_parameters());
            }
            if role == "student"
                && let Some(which) = &network.description.overlapping
            {
                add("/checkpoint", network.with_overlaps(which));
            }
            if method.is_scale_decoupled() && network.description.feature_map.is_none() {
                add("", network.without_map(method));
            }
            if network.side().is_none() {
                let [_, height, width] = network.description.input;
                add(
                    "/checkpoint",
                    format!(
                        "{name} takes images of {height}×{width} pixels, and those of a job are square, with 8 to 1024 \
                         pixels: export it for such images"
                    ),
                );
            }
        }
        faults.extend(self.size_fault(image_size, is_size_given));
        faults
    }

    /// A warning if the student was exported for fewer images at a time than a device computes. It trains all the same.
    pub(super) fn small_batches(&self, training: &TrainingSpec) -> Option<String> {
        let (_, network) = self.exported().find(|(role, _)| *role == "student")?;
        let [_, most] = network.description.batch;
        let most = most.filter(|&most| most < u64::from(training.batch_size.div_ceil(training.devices.max(1))))?;
        Some(format!(
            "the student {} was exported for batches of at most {most} images, and training.batch_size is {} on {}: it \
             trains all the same, but its .pt2 takes no more than {most} images at a time. Export it with \
             torch.export.Dim(\"batch\", min=2, max=65536) for more",
            network.name,
            training.batch_size,
            counted(training.devices, "device", "devices")
        ))
    }

    /// Exported networks take images of one size.
    fn size_fault(&self, image_size: u32, is_given: bool) -> Option<Fault> {
        let fault = |pointer: &str, detail: String| Some(Fault { pointer: pointer.to_owned(), detail });
        let sides: Vec<_> =
            self.exported().filter_map(|(role, network)| Some((role, &network.name, network.side()?))).collect();
        if let [(_, student, one), (_, teacher, other)] = sides.as_slice()
            && one != other
        {
            return fault(
                "/student/checkpoint",
                format!(
                    "the student {student} was exported for images of {one}×{one} pixels, and the teacher {teacher} for \
                     {other}×{other}, but both see the same images: export one of them again, for those of the other"
                ),
            );
        }
        let (role, name, side) = sides.into_iter().find(|(_, _, side)| is_given && *side != image_size)?;
        fault(
            "/dataset/image_size",
            format!(
                "the {role} {name} was exported for images of {side}×{side} pixels: leave this out, or export the \
                 network again for {image_size}×{image_size}"
            ),
        )
    }
}

impl DescribedNetwork {
    /// The side in pixels of the square images that it takes. `None` if a job cannot have such images.
    #[must_use]
    pub fn side(&self) -> Option<u32> {
        let [_, height, width] = self.description.input;
        u32::try_from(height).ok().filter(|side| height == width && (8..=1024).contains(side))
    }

    /// The shorter side of its feature map, in cells. `None` without one.
    fn map_side(&self) -> Option<u64> {
        let map = self.description.feature_map.as_ref()?;
        let [_, height, width] = map.shape;
        Some(height.min(width))
    }

    /// Whether both are one network apart from their weights and the mode in which they were exported, as far as their
    /// descriptions tell.
    pub(super) fn is_graph_of(&self, other: &Self) -> bool {
        let (one, other) = (&self.description, &other.description);
        (one.input, one.classes, one.parameters, one.macs) == (other.input, other.classes, other.parameters, other.macs)
            && one.feature_map == other.feature_map
    }

    fn in_evaluation(&self) -> String {
        format!(
            "{} was exported in evaluation mode, in which its batch norms and dropouts do not train: call \
             model.train() before torch.export.export(…), save and upload that file, and name it here. The .pt2 of a \
             trained student is in evaluation mode, too: to train it further, load its safetensors into the model first",
            self.name
        )
    }

    fn without_parameters(&self) -> String {
        format!(
            "{} has no parameters that training changes: all of them are frozen, or it has none. Call \
             model.requires_grad_(True) before torch.export.export(…), save and upload that file, and name it here",
            self.name
        )
    }

    fn with_overlaps(&self, which: &str) -> String {
        format!(
            "{} has tensors that share memory without being the same, and training would change them apart: {which}. Give \
             each its own (tensor.data = tensor.data.clone()), or make them one parameter, which forward transposes or \
             slices, before torch.export.export(…), save and upload that file, and name it here",
            self.name
        )
    }

    fn without_map(&self, method: Method) -> String {
        let base = method.name().trim_start_matches("sdd_");
        format!(
            "{} has no feature map, which {:?} divides into regions: it does not average the positions of a map, as where \
             a class token is classified. Use method {base:?}, or export the network with average pooling (timm: \
             create_model(…, global_pool=\"avg\"))",
            self.name,
            method.name()
        )
    }

    /// Why its classifier cannot be replaced; `None` if it can.
    pub(super) fn without_new_classifier(&self) -> Option<String> {
        let head = &self.description.head;
        // Descriptions of earlier versions have no reason.
        let unknown = "its logits are not those of a linear layer or a 1×1 convolution of the head";
        let why = head.keeps_classifier.as_deref().or_else(|| head.classifier.is_none().then_some(unknown))?;
        Some(format!(
            "the classifier of {} cannot be replaced, because {why}. Replace it in PyTorch, and export the network again",
            self.name
        ))
    }

    /// A warning for each scale that is finer than the feature map.
    pub fn fine_scales<'a>(
        &'a self,
        distillation: &'a DistillationSpec,
        role: &'a str,
    ) -> impl Iterator<Item = String> + 'a {
        let map = self.description.feature_map.as_ref();
        let map = map.map(|map| (format!("{}×{}", map.shape[1], map.shape[2]), map.shape[1].min(map.shape[2])));
        map.into_iter().flat_map(move |(map, side)| distillation.finer_than(side, map, format!("{role} {}", self.name)))
    }
}
