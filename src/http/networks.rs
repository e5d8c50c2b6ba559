//! Finds out which networks a specification means: those that it names, and those that its checkpoints and its
//! teacher's job have.

use sqlx::types::Json as Jsonb;

use super::AppState;
use super::dataset_facts;
use super::error::ApiError;
use super::extract::fault;
use crate::architecture::{self, Architecture, Shapes};
use crate::db;
use crate::db::checkpoints::{self, Fit, Guess, UploadedCheckpoint};
use crate::db::jobs::Status;
use crate::exported::{Description, HOW_TO_EXPORT, TRACES_REMOVED};
use crate::spec::{DescribedNetwork, Fault, FoundNetwork, FoundNetworks, JobSpec, Request, StudentHead};
use crate::text::counted;

/// What was found out about the networks of a specification.
#[derive(Debug, Default)]
pub struct NetworkFindings {
    /// The networks that it does not name itself.
    pub networks: FoundNetworks,
    pub faults: Vec<Fault>,
    /// What reading their checkpoints showed.
    pub notes: Vec<String>,
    /// Says that the student gets a new classifier.
    pub new_classifier: Option<String>,
}

/// The network that a specification gives for a role.
#[derive(Debug, Clone, Copy)]
enum Given {
    Named(&'static Architecture),
    /// Something that is no architecture, which is a fault already.
    Faulty,
    LeftOut,
}

impl Given {
    fn of(request: &Request, pointer: &str, architecture: Option<&'static Architecture>) -> Self {
        match architecture {
            Some(architecture) => Self::Named(architecture),
            None if request.faults.iter().any(|fault| fault.pointer == pointer) => Self::Faulty,
            None => Self::LeftOut,
        }
    }
}

/// Looks for the networks of a specification that was read for the first time. `classes` are those of its data set.
pub async fn find(state: &AppState, request: &Request, classes: Option<u32>) -> Result<NetworkFindings, ApiError> {
    let mut found = NetworkFindings::default();
    if let Some(teacher) = &request.teacher {
        let given = Given::of(request, "/teacher/architecture", teacher.architecture);
        if let Some(id) = &teacher.checkpoint {
            found.networks.teacher = NetworkRole { name: "teacher", given, classes, head: None }
                .of_checkpoint(state, id, &mut found)
                .await?;
        }
        if let Some(id) = &teacher.job {
            found.networks.teacher = of_job(state, id, given, classes, &mut found.faults).await?;
        }
    }
    if let Some(id) = &request.student.checkpoint {
        let given = Given::of(request, "/student/architecture", request.student.architecture);
        let head = request.student.head;
        found.networks.student =
            NetworkRole { name: "student", given, classes, head }.of_checkpoint(state, id, &mut found).await?;
    }
    Ok(found)
}

/// A network whose checkpoint a specification names.
#[derive(Debug, Clone, Copy)]
struct NetworkRole {
    name: &'static str,
    given: Given,
    /// Number of the data set's classes.
    classes: Option<u32>,
    /// What becomes of the checkpoint's classifier.
    head: Option<StudentHead>,
}

impl NetworkRole {
    fn fault(self, field: &str, detail: String) -> Fault {
        fault(&format!("/{}/{field}", self.name), detail)
    }

    /// Checks that an uploaded checkpoint exists and is of the network. Returns the network if the specification does
    /// not name it.
    async fn of_checkpoint(
        self,
        state: &AppState,
        id: &str,
        found: &mut NetworkFindings,
    ) -> Result<Option<FoundNetwork>, ApiError> {
        let Some(checkpoint) = checkpoints::get(&state.pool, id).await? else {
            let detail = format!("there is no checkpoint {id}: upload it with PUT /v1/checkpoints");
            found.faults.push(self.fault("checkpoint", detail));
            return Ok(None);
        };
        let mut network = match exported(&checkpoint) {
            Ok(None) => {
                checkpoint.notes.iter().for_each(|note| self.note(id, note, found));
                return Ok(self.known(&checkpoint, found));
            }
            Ok(Some(network)) => {
                let notes = checkpoint.notes.iter().filter(|note| self.should_see(note, &network.description));
                notes.for_each(|note| self.note(id, note, found));
                network
            }
            Err(reason) => {
                found.faults.push(self.fault("checkpoint", reason));
                return Ok(None);
            }
        };
        match self.given {
            Given::LeftOut => {}
            Given::Faulty => return Ok(None),
            Given::Named(_) => {
                let detail =
                    format!("checkpoint {id} is an exported network, which is its own architecture: leave this out");
                found.faults.push(self.fault("architecture", detail));
                return Ok(None);
            }
        }
        if self.is_new() {
            self.replaces(network.description.classes, found);
            network.description = with_classes(network.description, self.classes);
        } else if let Some(detail) = wrong_classes(&network, self.classes) {
            // One without a name is called by its id.
            let of = if network.name == id { String::new() } else { format!("{id}: ") };
            found.faults.push(self.fault("checkpoint", format!("checkpoint {of}{detail}{}", self.new_head())));
        }
        Ok(Some(FoundNetwork::Exported(Box::new(network))))
    }

    /// Adds a note of a checkpoint, once if teacher and student are the same file.
    fn note(self, id: &str, note: &str, found: &mut NetworkFindings) {
        let of = |roles: &str| format!("checkpoint {id} of {roles}: {note}");
        let of_teacher = of("the teacher");
        match found.notes.iter().position(|known| *known == of_teacher).filter(|_| self.name == "student") {
            Some(known) => found.notes[known] = of("teacher and student"),
            None => found.notes.push(of(&format!("the {}", self.name))),
        }
    }

    /// The only architecture that a checkpoint fits, if the specification names none.
    fn known(self, checkpoint: &UploadedCheckpoint, found: &mut NetworkFindings) -> Option<FoundNetwork> {
        let faults = &mut found.faults;
        let id = &checkpoint.id;
        let architecture = match self.given {
            Given::Faulty => return None,
            Given::Named(architecture) => architecture,
            Given::LeftOut => match certain(checkpoint) {
                Ok(architecture) => architecture,
                Err(several) if several.is_empty() => {
                    faults
                        .push(self.fault("checkpoint", format!("checkpoint {id} {}", fits_nothing(checkpoint, None))));
                    return None;
                }
                Err(several) => {
                    let detail = format!("is required: checkpoint {id} fits {}", several.join(" and "));
                    faults.push(self.fault("architecture", detail));
                    return None;
                }
            },
        };
        // A classifier that is replaced may have any classes.
        let mismatch = mismatch(checkpoint, architecture, self.classes.filter(|_| !self.is_new()));
        // Only its classes do not fit: the architecture is one of those whose keys and shapes the checkpoint has.
        let fit = checkpoint.fits.iter().find(|fit| fit.architecture == architecture.name);
        let advice = if fit.is_some() { self.new_head() } else { "" };
        let fault = |mismatch| self.fault("checkpoint", format!("checkpoint {id} {mismatch}{advice}"));
        faults.extend(mismatch.map(fault));
        if let Some(fit) = fit.filter(|_| self.is_new()) {
            self.replaces(fit.num_classes.into(), found);
        }
        Some(FoundNetwork::Known(architecture))
    }

    /// Whether a note of an exported network's upload is a warning for a network in this role.
    fn should_see(self, note: &str, description: &Description) -> bool {
        let is_of = |list: &[String]| list.iter().any(|other| other == note);
        let is_anothers = self.name != "student" && is_of(&description.student_warnings);
        note != TRACES_REMOVED && !is_of(&description.notes) && !is_anothers
    }

    fn is_new(self) -> bool {
        self.head == Some(StudentHead::New)
    }

    /// Notes that the classifier is replaced. `before`: its classes.
    fn replaces(self, before: u64, found: &mut NetworkFindings) {
        let Some(classes) = self.classes else { return };
        let [before, after] = [before, classes.into()].map(|classes| counted(classes, "class", "classes"));
        found.new_classifier = Some(format!(
            "the {}'s classifier with {before} is replaced by one with {after}, which starts from random weights",
            self.name
        ));
    }

    /// What else a student can do about other classes.
    fn new_head(self) -> &'static str {
        if self.name == "student" { "; or replace its classifier with \"head\": \"new\"" } else { "" }
    }
}

/// The network of an uploaded file that has one, or why this program cannot use it.
fn exported(checkpoint: &UploadedCheckpoint) -> Result<Option<DescribedNetwork>, String> {
    let Some(network) = &checkpoint.network else { return Ok(None) };
    let name = checkpoint.name.clone().unwrap_or_else(|| checkpoint.id.clone());
    let description: Result<Description, _> = serde_json::from_value(network.clone());
    match description {
        Ok(description) => Ok(Some(DescribedNetwork { name, description })),
        Err(error) => Err(format!(
            "checkpoint {} was described by another version of the server, which this one cannot read ({error}): upload \
             the file again",
            checkpoint.id
        )),
    }
}

/// The description of a network with a classifier for the classes of a data set, if they are known.
fn with_classes(description: Description, classes: Option<u32>) -> Description {
    match classes {
        Some(classes) => description.with_classes(classes.into()),
        None => description,
    }
}

/// An error if an exported network does not have the classes of the data set.
fn wrong_classes(network: &DescribedNetwork, classes: Option<u32>) -> Option<String> {
    let own = u32::try_from(network.description.classes).unwrap_or(u32::MAX);
    architecture::class_mismatch(&network.name, own, "this job's data set", classes?)
}

/// The architecture of a checkpoint, if it is certain; else those that it fits.
fn certain(checkpoint: &UploadedCheckpoint) -> Result<&'static Architecture, Vec<&str>> {
    let named = checkpoint.architecture.as_deref();
    let fits: Vec<_> = checkpoint.fits.iter().map(|fit| fit.architecture.as_str()).collect();
    let only = if let [only] = fits.as_slice() { Some(*only) } else { None };
    named.or(only).and_then(architecture::find).ok_or(fits)
}

/// What keeps a stored checkpoint from being of the network. Its tensors are not at hand, but what fits an architecture
/// has exactly that one's.
fn mismatch(checkpoint: &UploadedCheckpoint, network: &Architecture, classes: Option<u32>) -> Option<String> {
    let fits = &checkpoint.fits.0;
    let is_fit =
        |fit: &Fit| fit.architecture == network.name && classes.is_none_or(|classes| classes == fit.num_classes);
    if fits.iter().any(is_fit) {
        return None;
    }
    let Some((fit, known)) = fits.iter().find_map(|fit| Some((fit, architecture::find(&fit.architecture)?))) else {
        return Some(fits_nothing(checkpoint, Some(network.name)));
    };
    let mismatch = architecture::mismatch(network, &shapes_of(known, fit), classes)?;
    // The sentence ends with what it fits.
    let own = counted(fit.num_classes, "class", "classes");
    Some(if known.name == network.name { mismatch } else { format!("{mismatch} with {own}") })
}

/// Why a checkpoint that fits no network is not the one that is wanted, as far as that was found out when it was
/// uploaded, and what can be done.
fn fits_nothing(checkpoint: &UploadedCheckpoint, wanted: Option<&str>) -> String {
    let known = "it fits no known architecture";
    let guess = checkpoint.guess.as_ref().map(|Jsonb(guess)| guess);
    let why = match guess {
        Some(Guess { architecture, difference: Some(difference), .. }) if Some(architecture.as_str()) == wanted => {
            format!("{difference}; {known}")
        }
        Some(Guess { architecture, difference: Some(difference), .. }) => {
            format!("{known}; {architecture} is the nearest, but {difference}")
        }
        _ => known.to_owned(),
    };
    let wanted = wanted.map_or_else(|| "cannot be used".to_owned(), |wanted| format!("does not fit {wanted}"));
    // The note of an upload that fits nothing has the same advice.
    let others = checkpoint.notes.iter().filter(|note| !note.starts_with(known));
    let notes: String = others.map(|note| format!("; {note}")).collect();
    format!("{wanted}: {why}{notes}. {}", how_to_export())
}

/// What to do with a network that the server does not know.
pub fn how_to_export() -> String {
    format!("Export a network of your own with PyTorch, and upload that file instead:\n{}", HOW_TO_EXPORT.trim_end())
}

fn shapes_of(architecture: &Architecture, fit: &Fit) -> Shapes {
    let entries = architecture.layout(fit.num_classes).entries;
    entries.into_iter().map(|entry| (entry.key, entry.shape)).collect()
}

/// Whether the job whose student is to be the teacher can be that. Returns its network.
async fn of_job(
    state: &AppState,
    id: &str,
    given: Given,
    classes: Option<u32>,
    faults: &mut Vec<Fault>,
) -> Result<Option<FoundNetwork>, ApiError> {
    let Some(job) = db::jobs::get(&state.pool, id).await? else {
        faults.push(fault("/teacher/job", format!("there is no job {id}")));
        return Ok(None);
    };
    if matches!(job.status, Status::Failed | Status::Cancelled) {
        let detail = format!("job {id} is {}: it has no student to learn from", job.status.name());
        faults.push(fault("/teacher/job", detail));
    }
    let spec = match JobSpec::from_stored(&job.spec) {
        Ok(spec) => spec,
        Err(reason) => {
            let detail = format!("this version of the server cannot read the specification of job {id}: {reason}");
            faults.push(fault("/teacher/job", detail));
            return Ok(None);
        }
    };
    // Faults of a data set that the other job uses are not faults of this one.
    let theirs = dataset_facts::check(state, &spec.dataset, &mut Vec::new()).await?.map(|(dataset, _)| dataset.classes);
    let network = match student_of(state, id, &spec, theirs).await? {
        Ok(network) => network,
        Err(detail) => {
            faults.push(fault("/teacher/job", detail));
            return Ok(None);
        }
    };
    let name = match &network {
        FoundNetwork::Known(architecture) => format!("a {}", architecture.name),
        FoundNetwork::Exported(network) => format!("the exported network {}", network.name),
    };
    let is_same = |given: &Architecture| matches!(&network, FoundNetwork::Known(own) if own.name == given.name);
    if let Given::Named(given) = given
        && !is_same(given)
    {
        let detail = format!("the student of job {id} is {name}, not a {}: leave this out", given.name);
        faults.push(fault("/teacher/architecture", detail));
    }
    if let (Some(theirs), Some(ours)) = (theirs, classes)
        && let Some(detail) =
            architecture::class_mismatch(&format!("the student of job {id}"), theirs, "this job's data set", ours)
    {
        faults.push(fault("/teacher/job", detail));
    }
    Ok(Some(network))
}

/// The network that a job trains, or why it cannot be used. `classes` are those of its data set, if they are known.
async fn student_of(
    state: &AppState,
    id: &str,
    spec: &JobSpec,
    classes: Option<u32>,
) -> Result<Result<FoundNetwork, String>, ApiError> {
    if let Some(name) = &spec.student.architecture {
        return Ok(architecture::named(name).map(FoundNetwork::Known).map_err(|unknown| {
            format!("this version of the server cannot read the specification of job {id}: {unknown}")
        }));
    }
    let checkpoint = spec.student.checkpoint.as_deref().unwrap_or_default();
    let Some(uploaded) = checkpoints::get(&state.pool, checkpoint).await? else {
        return Ok(Err(format!(
            "the network of job {id} is in checkpoint {checkpoint}, which has been deleted: upload that file again"
        )));
    };
    Ok(match exported(&uploaded) {
        Ok(Some(mut network)) => {
            if spec.student.head == Some(StudentHead::New) {
                network.description = with_classes(network.description, classes);
            }
            Ok(FoundNetwork::Exported(Box::new(network)))
        }
        Ok(None) => Err(format!("checkpoint {checkpoint} of job {id} is not an exported network")),
        Err(reason) => Err(reason),
    })
}
