//! Looks at the data set that a specification names. Requests that ask the same at about the same time share a lookup.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::AppState;
use super::error::ApiError;
use super::extract::fault;
use crate::dataset::{self, Dataset, DatasetOptions, Discovered, SelectedImages, SelectionError, SelectionRequest};
use crate::spec::{DatasetSpec, Fault};
use crate::text::nearest;

/// How long a data set is new: workers that are idle look at theirs every five seconds.
const NEW: Duration = Duration::from_secs(30);
/// Most data sets that are named in a message.
const NAMED: usize = 10;

/// What a job needs to know of its data set.
#[derive(Debug, Clone)]
pub struct DatasetFacts {
    pub classes: u32,
    pub train_images: u64,
    pub eval_images: u64,
    /// What was decided, guessed or passed over, and what is probably not intended.
    pub notes: Vec<String>,
}

/// The facts of the data set, if the job can use it.
pub async fn check(
    state: &AppState,
    spec: &DatasetSpec,
    faults: &mut Vec<Fault>,
) -> Result<Option<DatasetFacts>, ApiError> {
    let directory = state.datasets.directory().clone();
    let (wanted, follow_links) = (spec.clone(), state.settings.follow_links);
    let changed = changed(&directory.join(&spec.location.name)).await;
    let asked = format!("{changed:?} {}", question(spec)?);
    match &*state.lookups.find(asked, move || open(&directory, &wanted, follow_links)).await? {
        Ok(facts) => Ok(Some(facts.clone())),
        Err((_, dataset::Error::Missing { .. })) => {
            let directory = state.datasets.directory();
            let name = &spec.location.name;
            let instead = if tokio::fs::try_exists(directory).await.unwrap_or(true) {
                instead(name, &*state.datasets.list().await?)
            } else {
                "; the server's --datasets-dir does not exist: its operator has to create it or name another (its log \
                 has the path)"
                    .to_owned()
            };
            faults.push(fault("/dataset/name", format!("there is no data set {name:?}{instead}")));
            Ok(None)
        }
        Err((pointer, error)) if error.is_users() => {
            // Where the server keeps its data sets is nobody's business.
            faults.push(fault(pointer, error.relative_to(state.datasets.directory())));
            Ok(None)
        }
        Err((_, error)) => Err(ApiError::Internal(anyhow::anyhow!("{error}"))),
    }
}

/// When a directory was changed last. A data set that is gone, or was replaced, is looked at again at once.
async fn changed(path: &Path) -> Option<SystemTime> {
    tokio::fs::metadata(path).await.and_then(|facts| facts.modified()).ok()
}

/// Whether the server's copy of a data set was put in place or changed a moment ago, so that workers may not have
/// looked.
pub async fn is_new(state: &AppState, name: &str) -> bool {
    let Ok(facts) = tokio::fs::metadata(state.datasets.directory().join(name)).await else { return false };
    // Of the directory's entry too, unlike the time of modification, which a copy may keep.
    let changed = Duration::from_secs(facts.ctime().unsigned_abs());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(changed) < NEW
}

/// What of a specification decides about the [facts](DatasetFacts): what [`open`] reads of it, and nothing else, so
/// that a sweep over image sizes looks once.
fn question(spec: &DatasetSpec) -> anyhow::Result<String> {
    let SelectionRequest {
        train_split,
        eval_split,
        eval_fraction,
        fold,
        split_seed,
        unlabelled_split,
        limit,
        limit_per_class,
    } = spec.selection();
    let (name, columns) = (&spec.location.name, (&spec.image_column, &spec.label_column));
    let fold = fold.map(|fold| (fold.number, fold.of));
    let evaluated = (eval_split, eval_fraction, fold, split_seed);
    Ok(serde_json::to_string(&(name, columns, train_split, evaluated, unlabelled_split, limit, limit_per_class))?)
}

/// The fingerprint of the server's copy of a data set. Requests at about the same time share a lookup.
pub async fn fingerprint(state: &AppState, name: &str) -> Result<Option<String>, ApiError> {
    let directory = state.datasets.directory().clone();
    let changed = changed(&directory.join(name)).await;
    let (asked, name) = (format!("{changed:?} {name}"), name.to_owned());
    let look = move || {
        let path = dataset::resolve(&directory, &name).map_err(std::io::Error::other)?;
        dataset::fingerprint(&path)
    };
    Ok(state.fingerprints.find(asked, look).await?.as_ref().as_ref().ok().cloned())
}

/// What is wrong with a data set, and the place of the specification that it concerns.
pub type WrongDataset = (&'static str, dataset::Error);

fn open(directory: &Path, spec: &DatasetSpec, follow_links: bool) -> Result<DatasetFacts, WrongDataset> {
    let at = |pointer| move |error| (pointer, error);
    let columns = match (&spec.image_column, &spec.label_column) {
        (Some(_), _) => "/dataset/image_column",
        (None, Some(_)) => "/dataset/label_column",
        (None, None) => "/dataset/name",
    };
    let path = dataset::resolve(directory, &spec.location.name).map_err(at("/dataset/name"))?;
    let (image_column, label_column) = (spec.image_column.clone(), spec.label_column.clone());
    let dataset = Dataset::open(&path, &DatasetOptions { image_column, label_column, follow_links }).map_err(
        |error| match error {
            dataset::Error::Column { .. } => (columns, error),
            other => ("/dataset/name", other),
        },
    )?;
    // What a worker would refuse, too: it reads the same labels.
    let selection = dataset.select(spec.selection()).map_err(|SelectionError { field, error }| match field {
        Some("train_split") => ("/dataset/train_split", error),
        Some("eval_split") => ("/dataset/eval_split", error),
        Some("eval_fraction") => ("/dataset/eval_fraction", error),
        Some("unlabelled_split") => ("/dataset/unlabelled_split", error),
        Some("fold") => ("/dataset/folds", error),
        _ => ("/dataset/name", error),
    })?;
    let count = |images: &SelectedImages| images.labels.len() as u64;
    Ok(DatasetFacts {
        classes: dataset.classes().count,
        train_images: count(&selection.train) + selection.unlabelled.as_ref().map_or(0, |(_, images)| *images),
        eval_images: count(&selection.eval),
        notes: selection.warnings.into_iter().chain(selection.notes).collect(),
    })
}

/// Which data set was probably meant, and which there are, behind the remark that there is none of that name.
fn instead(wanted: &str, found: &Discovered) -> String {
    let names: Vec<_> = found.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    if names.is_empty() {
        return "; the server's --datasets-dir holds none".to_owned();
    }
    let near =
        nearest(wanted, names.iter().copied()).map_or_else(String::new, |near| format!(", did you mean {near}?"));
    let (named, others) = names.split_at(names.len().min(NAMED));
    let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    format!("{near}; there are {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::dataset::{DatasetFormat, DatasetSummary};
    use crate::spec::Request;

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_the_first_ten() {
        let found = |names: &[String]| {
            let summary = |name: &String| DatasetSummary {
                name: name.clone(),
                format: DatasetFormat::Idx,
                splits: Vec::new(),
                images: 0,
                classes: 1,
                size_bytes: 0,
                notes: Vec::new(),
            };
            Discovered { datasets: names.iter().map(summary).collect(), ..Discovered::default() }
        };
        let few = found(&["digits".to_owned(), "flowers".to_owned()]);
        assert_eq!(instead("Digits", &few), ", did you mean digits?; there are digits, flowers");
        assert_eq!(instead("flower", &few), ", did you mean flowers?; there are digits, flowers");
        assert_eq!(instead("birds", &few), "; there are digits, flowers");
        assert_eq!(instead("birds", &found(&[])), "; the server's --datasets-dir holds none");
        let many: Vec<String> = (10..22).map(|number| format!("set{number}")).collect();
        let listed = "there are set10, set11, set12, set13, set14, set15, set16, set17, set18, set19 and 2 more";
        assert_eq!(instead("Set-21", &found(&many)), format!(", did you mean set21?; {listed}"));
        assert_eq!(instead("birds", &found(&many[..11])), format!("; {}", listed.replace("2 more", "1 more")));
    }

    #[test]
    fn only_what_decides_about_a_data_set_asks_for_another_look() {
        let question = |change: Value| {
            let mut dataset = json!({"name": "ten"});
            dataset.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let method = json!({"method": "none"});
            let document = json!({"student": {"architecture": "resnet8"}, "dataset": dataset, "distillation": method});
            question(&Request::read(&document).complete().unwrap().dataset).unwrap()
        };
        let plain = question(json!({}));
        for other in [
            json!({"image_size": 64}),
            json!({"mean": [0.1, 0.2, 0.3], "std": [0.1, 0.2, 0.3]}),
            json!({"image_size": 64, "eval_crop": "centre", "eval_resize": 80}),
        ] {
            assert_eq!(question(other.clone()), plain, "{other}");
        }
        for other in [
            json!({"name": "hundred"}),
            json!({"train_split": "a"}),
            json!({"eval_split": "a"}),
            json!({"eval_fraction": 0.5}),
            json!({"eval_fraction": 0.5, "split_seed": 1}),
            json!({"folds": 5, "fold": 2}),
            json!({"limit": 7}),
            json!({"limit_per_class": 7}),
            json!({"image_column": "a"}),
            json!({"label_column": "a"}),
        ] {
            assert_ne!(question(other.clone()), plain, "{other}");
        }
    }
}
