//! Looks up the data set that a specification names: a directory of the server, or an upload. Equal requests at about
//! the same time share a lookup.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::AppState;
use super::datasets::{self, Located};
use super::error::ApiError;
use super::extract::fault;
use crate::dataset::{
    self, Dataset, DatasetOptions, Discovered, SelectedImages, SelectionError, SelectionRequest, UsedSplits,
};
use crate::db;
use crate::spec::{DatasetSpec, Fault};
use crate::text::{nearest, quoted};

/// How long a data set is new: workers that are idle look at theirs every five seconds.
const NEW: Duration = Duration::from_secs(30);
/// Most data sets that are named in a message.
const NAMED: usize = 10;

/// What a job needs to know of its data set.
#[derive(Debug, Clone)]
pub struct DatasetFacts {
    pub classes: u32,
    /// In the order of the labels, if the data set has names.
    pub class_names: Option<Vec<String>>,
    pub train_images: u64,
    pub eval_images: u64,
    pub used: UsedSplits,
    /// What is probably not intended.
    pub warnings: Vec<String>,
    /// What was decided, guessed or passed over.
    pub notes: Vec<String>,
}

/// The facts about the data set and its location, if the job can use it.
pub async fn check(
    state: &AppState,
    spec: &DatasetSpec,
    faults: &mut Vec<Fault>,
) -> Result<Option<(DatasetFacts, Located)>, ApiError> {
    let name = &spec.location.name;
    let Some(located) = datasets::locate(state, name).await? else {
        faults.push(missing(state, name).await?);
        return Ok(None);
    };
    let files = located.files(state).await?;
    let (wanted, follow_links) = (spec.clone(), state.settings.follow_links && located.uploaded().is_none());
    let which = match located.uploaded() {
        Some(upload) => upload.id.clone(),
        None => format!("{:?}", changed(&files.path).await),
    };
    let asked = format!("{which} {}", question(spec)?);
    let base = files.base().to_owned();
    match &*state.lookups.find(asked, move || open(&files.path, &wanted, follow_links)).await? {
        Ok(facts) => Ok(Some((facts.clone(), located))),
        Err((_, dataset::Error::Missing { .. })) => {
            faults.push(missing(state, name).await?);
            Ok(None)
        }
        Err((pointer, error)) if error.is_users() => {
            // Users do not learn where the server keeps its data sets.
            faults.push(fault(pointer, error.relative_to(&base)));
            Ok(None)
        }
        Err((_, error)) => Err(ApiError::Internal(anyhow::anyhow!("{error}"))),
    }
}

/// The fault for a name that no data set has, with the names that exist.
async fn missing(state: &AppState, name: &str) -> Result<Fault, ApiError> {
    if !dataset::is_name(name) {
        let detail =
            format!("{name} is not a valid name of a data set: it {}", dataset::NAME_RULE, name = quoted(name));
        return Ok(fault("/dataset/name", detail));
    }
    let uploads = db::datasets::latest(&state.pool).await?;
    let uploads: Vec<&str> = uploads.iter().map(|upload| upload.name.as_str()).collect();
    let is_there = tokio::fs::try_exists(state.datasets.directory()).await.unwrap_or(true);
    let instead = if is_there || !uploads.is_empty() {
        instead(name, &*state.datasets.list().await?, &uploads)
    } else {
        "; the server's --datasets-dir does not exist: its operator has to create it or name another (its log has the \
         path)"
            .to_owned()
    };
    Ok(fault("/dataset/name", format!("there is no data set {name}{instead}", name = quoted(name))))
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
    let lookup = move || {
        let path = dataset::resolve(&directory, &name).map_err(std::io::Error::other)?;
        dataset::fingerprint(&path)
    };
    Ok(state.fingerprints.find(asked, lookup).await?.as_ref().as_ref().ok().cloned())
}

/// What is wrong with a data set, and the place of the specification that it concerns.
pub type WrongDataset = (&'static str, dataset::Error);

fn open(path: &Path, spec: &DatasetSpec, follow_links: bool) -> Result<DatasetFacts, WrongDataset> {
    let columns = match (&spec.image_column, &spec.label_column) {
        (Some(_), _) => "/dataset/image_column",
        (None, Some(_)) => "/dataset/label_column",
        (None, None) => "/dataset/name",
    };
    let (image_column, label_column) = (spec.image_column.clone(), spec.label_column.clone());
    let dataset = Dataset::open(path, &DatasetOptions { image_column, label_column, follow_links }).map_err(
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
        class_names: dataset.classes().names.clone(),
        train_images: count(&selection.train) + selection.unlabelled.as_ref().map_or(0, |(_, images)| *images),
        eval_images: count(&selection.eval),
        used: UsedSplits::of(&selection),
        warnings: selection.warnings,
        // Accents are how the data set is written, whatever the job does with it.
        notes: selection.notes.into_iter().filter(|note| !dataset::is_of_normal_forms(note)).collect(),
    })
}

/// What follows the remark that no data set has the name: the one that was probably meant, and those that exist.
fn instead(wanted: &str, found: &Discovered, uploads: &[&str]) -> String {
    let mut names: Vec<_> = found.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    names.extend(uploads.iter().filter(|upload| found.datasets.iter().all(|dataset| dataset.name != **upload)));
    if names.is_empty() {
        return "; the server's --datasets-dir holds none, and none was uploaded (PUT /v1/datasets/{name})".to_owned();
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
                version: None,
                format: DatasetFormat::Idx,
                splits: Vec::new(),
                unlabelled_splits: Vec::new(),
                images: 0,
                classes: 1,
                size_bytes: 0,
                notes: Vec::new(),
            };
            Discovered { datasets: names.iter().map(summary).collect(), ..Discovered::default() }
        };
        let few = found(&["digits".to_owned(), "flowers".to_owned()]);
        assert_eq!(instead("Digits", &few, &[]), ", did you mean digits?; there are digits, flowers");
        assert_eq!(instead("flower", &few, &[]), ", did you mean flowers?; there are digits, flowers");
        assert_eq!(instead("pet", &few, &["digits", "pets"]), ", did you mean pets?; there are digits, flowers, pets");
        assert_eq!(instead("birds", &few, &[]), "; there are digits, flowers");
        assert_eq!(
            instead("birds", &found(&[]), &[]),
            "; the server's --datasets-dir holds none, and none was uploaded (PUT /v1/datasets/{name})"
        );
        let many: Vec<String> = (10..22).map(|number| format!("set{number}")).collect();
        let listed = "there are set10, set11, set12, set13, set14, set15, set16, set17, set18, set19 and 2 more";
        assert_eq!(instead("Set-21", &found(&many), &[]), format!(", did you mean set21?; {listed}"));
        assert_eq!(instead("birds", &found(&many[..11]), &[]), format!("; {}", listed.replace("2 more", "1 more")));
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
