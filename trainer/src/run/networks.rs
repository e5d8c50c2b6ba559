//! Builds the student and the teacher of a specification and loads the checkpoints that it names.

use std::path::Path;

use tch::{Device, Kind};

use crate::data::open::Data;
use crate::error::{Error, Result};
use crate::models::{self, FusedCount, Network, state_dict};
use crate::worker_link::report::{Report, warning};
use distillery_core::checkpoint::Checkpoint;
use distillery_core::class_order::{self, ClassOrder};
use distillery_core::dataset::MeanStd;
use distillery_core::exported::{self, ExportedNetwork, NewClassifier, is_exported};
use distillery_core::protocol::{Event, Level};
use distillery_core::spec::{StudentHead, TeacherPlan, TrainingPlan};
use distillery_core::text::counted;

/// The networks of a run, with the hashes of the files that they come from.
#[derive(Debug)]
pub struct Networks {
    /// On the CPU in float32: an earlier attempt's weights may still replace its own.
    pub student: Network,
    /// Frozen, on the device; `None` for plain training.
    pub teacher: Option<Teacher>,
    pub hashes: NetworkHashes,
}

/// The teacher, with what its file says about it.
#[derive(Debug)]
pub struct Teacher {
    pub network: Network,
    /// Its mean and standard deviation, if the specification or the file names them.
    pub normalisation: Option<MeanStd>,
    /// Its accuracy in percent.
    pub recorded_accuracy: Option<f64>,
}

/// Hashes of the files that a specification names.
#[derive(Debug)]
pub struct NetworkHashes {
    pub teacher: Option<FileHashes>,
    pub student: Option<FileHashes>,
}

/// SHA-256 of a network's files, in hexadecimal.
#[derive(Debug)]
pub struct FileHashes {
    /// The hash of the weights.
    pub checkpoint: String,
    /// The hash of an exported network's graph, if that is in another file.
    pub network: Option<String>,
}

impl NetworkHashes {
    /// The hash of the file with an exported student's graph.
    #[must_use]
    pub fn student_network(&self) -> Option<&str> {
        let FileHashes { checkpoint, network } = self.student.as_ref()?;
        Some(network.as_ref().unwrap_or(checkpoint))
    }
}

/// How the teacher computes.
#[derive(Debug, Clone, Copy)]
pub struct TeacherPlacement {
    pub device: Device,
    /// The kind of its feature maps.
    pub kind: Kind,
    /// Images per batch.
    pub batch_size: u32,
}

impl Networks {
    /// Builds both networks and loads their checkpoints. Warnings go to `report`.
    ///
    /// # Errors
    /// A file cannot be read, does not fit the architecture or the data, or holds broken weights.
    pub fn load(
        spec: &TrainingPlan,
        data: &Data,
        placement: TeacherPlacement,
        report: &mut dyn Report,
    ) -> Result<Self> {
        let teacher = spec.teacher.as_ref().map(|teacher| load_teacher(teacher, spec, data, placement, report));
        let (teacher, of_teacher) = teacher.transpose()?.unzip();
        let (student, of_student) = load_student(spec, data, report)?;
        let networks = [("student", Some(&student)), ("teacher", teacher.as_ref().map(|teacher| &teacher.network))];
        for (role, network) in networks {
            let warnings = network.into_iter().flat_map(|network| fine_scales(spec, role, network));
            warnings.for_each(|message| report.event(&warning(message)));
        }
        Ok(Self { student, teacher, hashes: NetworkHashes { teacher: of_teacher, student: of_student } })
    }
}

/// A warning for each scale that is finer than a network's feature map.
fn fine_scales(spec: &TrainingPlan, role: &str, network: &Network) -> Vec<String> {
    let Some([height, width]) = network.map_size(spec.dataset.image_size) else { return Vec::new() };
    let (side, map) = (height.min(width).into(), format!("{height}×{width}"));
    spec.distillation.finer_than(side, map, format!("{role} {}", network.name())).collect()
}

fn load_teacher(
    teacher: &TeacherPlan,
    spec: &TrainingPlan,
    data: &Data,
    placement: TeacherPlacement,
    report: &mut dyn Report,
) -> Result<(Teacher, FileHashes)> {
    let named = Named {
        role: "teacher",
        checkpoint: &teacher.checkpoint,
        network: teacher.network.as_deref(),
        new_classifier: None,
    };
    let mut loaded = match teacher.architecture {
        Some(architecture) => {
            load_checkpoint(models::build(architecture, data.classes.count, 0), &named, data, report)?
        }
        None => load_exported(&named, data, report)?,
    };
    let order = order_of_classes(teacher, &loaded, data, report)?;
    let network = &mut loaded.network;
    if let Some(order) = order.filter(|order| !order.is_identity()) {
        network.reorder(order.outputs());
    }
    network.place(placement.device, Kind::Float);
    network.compute_in(placement.kind);
    if let Some(FusedCount { fused, of }) = network.freeze(placement.batch_size, spec.dataset.image_size) {
        let message = format!(
            "cuDNN runs {fused} of the teacher's {of} convolutions that end in a ReLU with bias, sum and ReLU as one kernel"
        );
        report.event(&Event::Log { level: Level::Info, message });
    }
    // Numbers that went through JSON may differ in the last bit, and two normalisations cost time.
    let stored = loaded.normalisation().filter(|&stored| !is_near(stored, data.mean_std, 1e-9));
    let is_given = MeanStd::of_both(teacher.mean, teacher.std);
    if let (None, Some(MeanStd { mean, std })) = (is_given, stored) {
        let message = format!(
            "the teacher's images are normalised by the mean {mean:?} and the standard deviation {std:?} that its \
             file names; teacher.mean and teacher.std would replace them"
        );
        report.event(&Event::Log { level: Level::Info, message });
    }
    let recorded_accuracy = loaded.checkpoint.as_ref().and_then(Checkpoint::recorded_accuracy);
    let Loaded { network, hashes, .. } = loaded;
    Ok((Teacher { network, normalisation: is_given.or(stored), recorded_accuracy }, hashes))
}

/// The order of the teacher's outputs by the names that the specification, or else its file, has for them; `None` if
/// there are none, or if they are those of other classes.
fn order_of_classes(
    teacher: &TeacherPlan,
    loaded: &Loaded,
    data: &Data,
    report: &mut dyn Report,
) -> Result<Option<ClassOrder>> {
    let names = class_order::names_or_numbers(data.classes.names.as_deref(), data.classes.count);
    let found = match &teacher.classes {
        Some(given) => ClassOrder::by_name(given, &names).map_err(|why| {
            Error::user(format!(
                "teacher.classes {why}. It lists the data set's classes in the order of the teacher's outputs"
            ))
        })?,
        // Names of the file say nothing about classes without names.
        None if data.classes.names.is_none() => return Ok(None),
        None => {
            let Some(own) = &loaded.class_names else { return Ok(None) };
            match ClassOrder::by_name(own, &names) {
                Ok(order) => order,
                // The file is of a data set without names.
                Err(_) if class_order::are_numbers(own) => return Ok(None),
                Err(why) => {
                    report.event(&warning(format!(
                        "the teacher's file {why}: its outputs are taken to be in the order of the data set's classes. If \
                         they are not, list the classes in teacher.classes"
                    )));
                    return Ok(None);
                }
            }
        }
    };
    if !found.is_identity() {
        let (moved, by) = (found.moved(), if teacher.classes.is_some() { "teacher.classes" } else { "its file" });
        let message = format!(
            "the teacher's outputs are put into the order of the data set's classes, by the names in {by}: {moved} of {} \
             change places ({})",
            names.len(),
            found.cycles(&names)
        );
        report.event(&Event::Log { level: Level::Info, message });
    }
    Ok(Some(found))
}

fn load_student(spec: &TrainingPlan, data: &Data, report: &mut dyn Report) -> Result<(Network, Option<FileHashes>)> {
    let student = &spec.student;
    let build = |architecture| models::build(architecture, data.classes.count, spec.training.seed);
    let new_classifier = (student.head == Some(StudentHead::New)).then_some(spec.training.seed);
    let named = |checkpoint| Named { role: "student", checkpoint, network: student.network.as_deref(), new_classifier };
    let loaded = match (student.architecture, &student.checkpoint) {
        (Some(architecture), None) => return Ok((build(architecture), None)),
        (Some(architecture), Some(path)) => load_checkpoint(build(architecture), &named(path), data, report)?,
        (None, Some(path)) => load_exported(&named(path), data, report)?,
        (None, None) => return Err(Error::user("the student has neither an architecture nor a checkpoint: name one")),
    };
    if let Some(stored) = loaded.normalisation()
        && !is_near(stored, data.mean_std, 1e-3)
    {
        let MeanStd { mean, std } = stored;
        report.event(&warning(format!(
            "the student's checkpoint was trained with the mean {mean:?} and the standard deviation {std:?}, and this \
             run uses {:?} and {:?}: set dataset.mean and dataset.std to keep those of the file",
            data.mean_std.mean, data.mean_std.std
        )));
    }
    Ok((loaded.network, Some(loaded.hashes)))
}

fn is_near(one: MeanStd, other: MeanStd, tolerance: f64) -> bool {
    let near =
        |one: [f64; 3], other: [f64; 3]| one.iter().zip(other).all(|(one, other)| (one - other).abs() < tolerance);
    near(one.mean, other.mean) && near(one.std, other.std)
}

/// The files that a specification names for a network.
struct Named<'a> {
    role: &'static str,
    checkpoint: &'a Path,
    network: Option<&'a Path>,
    /// The seed of the classifier that replaces the file's; `None` to keep that.
    new_classifier: Option<u64>,
}

impl Named<'_> {
    /// What messages call the checkpoint.
    fn title(&self) -> String {
        format!("the {}'s checkpoint", self.role)
    }

    /// Says that the classifier with these indices is a new one. `before`: the classes of the file.
    fn report_new_classifier(&self, network: &Network, indices: &[usize], before: u64, report: &mut dyn Report) {
        let Some(seed) = self.new_classifier else { return };
        let keys: Vec<&str> = indices.iter().map(|&index| network.weights()[index].name.as_str()).collect();
        let message = format!(
            "the {}'s classifier ({}) with {} was replaced by one with {}, whose first weights follow from training.seed \
             {seed}; all other weights are those of {}",
            self.role,
            keys.join(", "),
            counted(before, "class", "classes"),
            counted(network.classes(), "class", "classes"),
            self.checkpoint.display()
        );
        report.event(&Event::Log { level: Level::Info, message });
    }

    fn hashes(&self) -> Result<FileHashes> {
        let of = |path: &Path| exported::sha256(path).map_err(Error::storage(path));
        Ok(FileHashes { checkpoint: of(self.checkpoint)?, network: self.network.map(of).transpose()? })
    }
}

struct Loaded {
    network: Network,
    /// `None` where the weights are in the file of an exported network.
    checkpoint: Option<Checkpoint>,
    /// As a file names them, in the order of the outputs.
    class_names: Option<Vec<String>>,
    hashes: FileHashes,
}

impl Loaded {
    /// The mean and standard deviation that the file names.
    fn normalisation(&self) -> Option<MeanStd> {
        self.checkpoint.as_ref().and_then(Checkpoint::normalisation)
    }
}

/// Loads a checkpoint into a network of the zoo.
fn load_checkpoint(network: Network, named: &Named<'_>, data: &Data, report: &mut dyn Report) -> Result<Loaded> {
    let (path, title) = (named.checkpoint, named.title());
    let Some(architecture) = network.architecture() else {
        return Err(Error::internal(format!("{network:?} has no architecture")));
    };
    if is_exported(path) {
        return Err(Error::user(format!(
            "{title} {} is an exported network, which has no other architecture: leave out {}.architecture",
            path.display(),
            named.role
        )));
    }
    let (checkpoint, classes) = state_dict::open(path, architecture, None)?;
    for note in checkpoint.notes() {
        report.event(&warning(format!("{title}: {note}")));
    }
    let new = if named.new_classifier.is_some() { network.head_weights() } else { Vec::new() };
    if new.is_empty() {
        state_dict::check_classes(&title, path, classes, (data.path.as_path(), data.classes.count))?;
    }
    if let Some(doubt) = state_dict::load(&network, &checkpoint, path, &new)? {
        report.event(&warning(format!("{title}: {doubt}")));
    }
    named.report_new_classifier(&network, &new, classes.into(), report);
    let class_names = checkpoint.class_names();
    Ok(Loaded { network, checkpoint: Some(checkpoint), class_names, hashes: named.hashes()? })
}

/// Loads an exported network, whose weights may be in another file.
fn load_exported(named: &Named<'_>, data: &Data, report: &mut dyn Report) -> Result<Loaded> {
    let path = named.network.unwrap_or(named.checkpoint);
    let (mut file, doubt) = models::exported::open(path)?;
    let said = |what: &String| format!("the {}'s network {}: {what}", named.role, path.display());
    for what in file.description().warnings_of(named.role == "student").chain(&doubt) {
        report.event(&warning(said(what)));
    }
    for note in &file.description().notes {
        report.event(&Event::Log { level: Level::Info, message: said(note) });
    }
    let weights = named.network.map(|_| named.checkpoint);
    let checkpoint = weights.map(|weights| models::exported::open_weights(weights, &mut file)).transpose()?;
    let new = named.new_classifier.map(|seed| Ok::<_, Error>((replace_classifier(&mut file, path, data)?, seed)));
    let new = new.transpose()?;
    let network = models::exported::build(path, &file)?;
    let title = format!("the {}'s network", named.role);
    let of_graph = file.class_names().unwrap_or_else(|error| {
        report.event(&warning(format!("{title} {}: {error}", path.display())));
        None
    });
    state_dict::check_classes(&title, path, network.classes(), (data.path.as_path(), data.classes.count))?;
    if let Some(checkpoint) = &checkpoint {
        let kept = new.as_ref().map_or(&[][..], |(new, _)| new.tensors.as_slice());
        for note in models::exported::load(&network, checkpoint, named.checkpoint, kept)? {
            report.event(&warning(format!("{}: {note}", named.title())));
        }
    }
    if let Some((new, seed)) = &new {
        models::exported::initialise(&network, new, *seed);
        named.report_new_classifier(&network, &new.tensors, new.before, report);
    }
    // Weights in a file of their own are newer than the graph.
    let class_names = checkpoint.as_ref().and_then(Checkpoint::class_names).or(of_graph);
    Ok(Loaded { network, checkpoint, class_names, hashes: named.hashes()? })
}

/// Gives an exported network a classifier for the classes of the data set.
fn replace_classifier(file: &mut ExportedNetwork, path: &Path, data: &Data) -> Result<NewClassifier> {
    file.replace_classifier(data.classes.count.into()).map_err(|why| {
        Error::user(format!(
            "the classifier of {} cannot be replaced, because {why}. Replace it in PyTorch, and export the network again",
            path.display()
        ))
    })
}
