//! `/v1/jobs/{id}/predictions`

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::published::find;
use crate::artifacts;
use crate::checkpoint;
use crate::dataset;
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::{JobId, Query, whole};
use crate::http::workspace::Workspace;
use crate::predictions::{
    self, NetworkPredictions, Pictures, PredictionFile, PredictionOutcome, PredictionReport, Predictions,
};
use crate::protocol::files;

/// Files that are read at the same time. Each is held in memory.
pub const AT_ONCE: usize = 2;
/// Largest file that is read, in bytes.
const MOST_BYTES: i64 = 64 << 20;
const DEFAULT_LIMIT: i64 = 48;

#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PredictionParameters {
    /// Only images that both networks are right about, only one, or neither.
    #[param(inline)]
    outcome: Option<PredictionOutcome>,
    /// Only images whose label is the class with this name, or else with this number.
    label: Option<String>,
    /// Only images for which the student predicts this class.
    predicted: Option<String>,
    /// Only images for which the teacher predicts this class.
    teacher_predicted: Option<String>,
    /// Only images that have a picture.
    #[serde(default)]
    #[param(default = false)]
    pictured: bool,
    /// The `next` of the previous page.
    #[serde(default, deserialize_with = "whole::<0, 9_007_199_254_740_991, _>")]
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Most images to return.
    #[serde(default, deserialize_with = "whole::<1, 100, _>")]
    #[param(minimum = 1, maximum = 100, default = 48)]
    limit: Option<i64>,
}

/// What both networks predict for some images.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PredictionPage {
    /// The evaluation split.
    pub split: String,
    /// Number of images that the parameters choose, with a picture or without.
    pub images: u64,
    /// How many of these have a picture.
    pub pictured: u64,
    /// Scales of the regions, in the order of their predictions; empty for methods without regions.
    pub scales: Vec<u32>,
    /// The images: those first whose label is least probable to the student, compared with the teacher.
    pub data: Vec<PredictedImage>,
    /// Whether another page follows.
    pub has_more: bool,
    /// The `after` parameter for the next page; null on the last page.
    pub next: Option<u64>,
}

/// What both networks predict for an image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PredictedImage {
    /// Its place in the evaluation split, as it is evaluated.
    pub position: u64,
    /// Number of its class.
    pub label: u32,
    /// Name of its class; null if the data set has none.
    pub class: Option<String>,
    /// Which of the networks is right.
    pub outcome: PredictionOutcome,
    /// How much less probable the label is to the student than to the teacher, from -1 to 1; without a teacher, than
    /// certain.
    pub difference: f32,
    /// What the best student predicts.
    pub student: NetworkPrediction,
    /// What the teacher predicts; null without a teacher.
    pub teacher: Option<NetworkPrediction>,
    /// The image as the networks see it, at most 96×96 pixels, as a JPEG in a `data:` URL; null for most images.
    pub picture: Option<String>,
    /// What the networks predict for its regions; null without a picture, and for methods without regions.
    pub regions: Option<RegionPredictions>,
}

/// What a network predicts for an image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NetworkPrediction {
    /// Number of the class that it predicts.
    pub predicted: u32,
    /// Its name; null if the data set has none.
    pub class: Option<String>,
    /// The probability of that class, from 0 to 1.
    pub confidence: f32,
    /// The probability of the image's label, from 0 to 1.
    pub label_probability: f32,
}

/// What both networks predict for the regions of an image: scale by scale and row by row.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RegionPredictions {
    /// Number of the class that the student predicts for each region.
    pub student: Vec<u32>,
    /// The same of the teacher.
    pub teacher: Vec<u32>,
    /// Whether the teacher's prediction for the region disagrees with that for the whole image.
    pub complementary: Vec<bool>,
}

/// List predictions for evaluation images
///
/// What the best student and its teacher predict for each image of the evaluation split, those first about which the
/// student is most wrong, with small pictures of up to 256 of them. 404 until the job has succeeded, and for jobs of
/// earlier versions.
#[utoipa::path(get, path = "/v1/jobs/{id}/predictions", tag = "artifacts", operation_id = "list_predictions",
    params(("id" = String, Path, description = "Id of the job"), PredictionParameters),
    responses((status = 200, body = PredictionPage)))]
pub async fn list(
    State(state): State<AppState>,
    id: JobId,
    Query(parameters): Query<PredictionParameters>,
) -> Result<Json<PredictionPage>, ApiError> {
    let turn = state.predictions.clone().acquire_owned().await.map_err(anyhow::Error::from)?;
    let file = fetch(&state, &id, files::PREDICTIONS).await?;
    let read = move || {
        // Until the file is no longer in memory, even if the client has gone.
        let (_turn, file) = (turn, file);
        page(&predictions::read(&file.path).map_err(Wrong::File)?, &parameters)
    };
    match tokio::task::spawn_blocking(read).await.map_err(anyhow::Error::from)? {
        Ok(page) => Ok(Json(page)),
        Err(Wrong::Parameter(message)) => Err(ApiError::malformed(format!("query parameters: {message}"))),
        Err(Wrong::File(checkpoint::Error::Io(error))) => Err(error.into()),
        Err(Wrong::File(error)) => {
            Err(ApiError::invalid(format!("{} of job {id} cannot be read: {error}", files::PREDICTIONS)))
        }
    }
}

/// Get what the student gets wrong
///
/// The confusion matrices of the best student and its teacher on the evaluation split, their accuracy and agreement by
/// class, and their calibration: `predictions.json` of the job's artifacts. 404 until the job has succeeded, and for
/// jobs of earlier versions.
#[utoipa::path(get, path = "/v1/jobs/{id}/predictions/summary", tag = "artifacts",
    operation_id = "get_prediction_summary", params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, body = PredictionReport)))]
pub async fn summary(State(state): State<AppState>, id: JobId) -> Result<Json<PredictionReport>, ApiError> {
    let turn = state.predictions.clone().acquire_owned().await.map_err(anyhow::Error::from)?;
    let file = fetch(&state, &id, files::PREDICTION_REPORT).await?;
    let read = move || -> anyhow::Result<Result<PredictionReport, serde_json::Error>> {
        let (_turn, file) = (turn, file);
        Ok(serde_json::from_slice(&std::fs::read(&file.path)?))
    };
    let report = tokio::task::spawn_blocking(read).await.map_err(anyhow::Error::from)??;
    report
        .map(Json)
        .map_err(|error| ApiError::invalid(format!("{} of job {id} cannot be read: {error}", files::PREDICTION_REPORT)))
}

/// A copy of an artifact, which is removed when this is dropped.
struct Fetched {
    path: PathBuf,
    _workspace: Workspace,
}

async fn fetch(state: &AppState, id: &JobId, name: &str) -> Result<Fetched, ApiError> {
    let artifact = find(state, id, name).await?;
    if artifact.size_bytes > MOST_BYTES {
        let size = artifact.size_bytes;
        return Err(ApiError::invalid(format!(
            "{name} of job {id} has {size} bytes, and at most {MOST_BYTES} are read here: download the artifact"
        )));
    }
    let workspace = Workspace::make(&state.settings.spool_dir).await?;
    let path = workspace.files().join("artifact");
    match state.artifacts.fetch_verified(&artifact.key, &path, &artifact.sha256).await {
        Ok(()) => Ok(Fetched { path, _workspace: workspace }),
        Err(error @ (artifacts::Error::NotFound(_) | artifacts::Error::Damaged { .. })) => {
            tracing::error!(%error, "a published file is gone or damaged");
            Err(ApiError::Gone(
                format!(
                    "{name} was published, but is gone from storage or damaged there: something other than this program \
                     removed or changed it. Ask the operator to put it back from a backup"
                )
                .into(),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// Why there is no page.
#[derive(Debug)]
enum Wrong {
    File(checkpoint::Error),
    Parameter(String),
}

/// The images that the parameters choose.
fn page(file: &PredictionFile, parameters: &PredictionParameters) -> Result<PredictionPage, Wrong> {
    let predictions = &file.predictions;
    let class = |name: &str, given: &Option<String>| -> Result<Option<u32>, Wrong> {
        let wrong = |why: String| Wrong::Parameter(format!("{name}: {why}"));
        let names = file.names.as_deref();
        given.as_ref().map(|given| dataset::class_of(given, names, predictions.classes).map_err(wrong)).transpose()
    };
    let label = class("label", &parameters.label)?;
    let predicted = class("predicted", &parameters.predicted)?;
    let of_teacher = class("teacher_predicted", &parameters.teacher_predicted)?;
    let pictures = file.pictures.as_ref();
    let mut picture_of = vec![None; predictions.len()];
    for (picture, &image) in pictures.into_iter().flat_map(|pictures| pictures.images.iter().enumerate()) {
        picture_of[image as usize] = Some(picture);
    }
    let is_chosen = |&image: &usize| {
        parameters.outcome.is_none_or(|outcome| predictions.outcome(image) == outcome)
            && label.is_none_or(|label| predictions.labels[image] == label)
            && predicted.is_none_or(|class| predictions.student.predicted[image] == class)
            && of_teacher.is_none_or(|class| {
                predictions.teacher.as_ref().is_some_and(|teacher| teacher.predicted[image] == class)
            })
    };
    let has_picture = |&image: &usize| picture_of[image].is_some();
    let mut chosen: Vec<usize> = (0..predictions.len()).filter(is_chosen).collect();
    let (images, pictured) = (chosen.len() as u64, chosen.iter().filter(|&image| has_picture(image)).count() as u64);
    chosen.retain(|image| !parameters.pictured || has_picture(image));
    // The sort is stable: equal ones stay in the order of the split.
    chosen.sort_by(|&one, &other| predictions.difference(other).total_cmp(&predictions.difference(one)));
    let first = parameters.after.map_or(0, |after| usize::try_from(after).unwrap_or(usize::MAX)).min(chosen.len());
    let limit = usize::try_from(parameters.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(1);
    let end = first.saturating_add(limit).min(chosen.len());
    let data = chosen[first..end].iter().map(|&image| {
        let picture = pictures.zip(picture_of[image]);
        described(file, image, picture)
    });
    let has_more = end < chosen.len();
    let regions = pictures.and_then(|pictures| pictures.regions.as_ref());
    Ok(PredictionPage {
        split: file.split.clone(),
        images,
        pictured,
        scales: regions.map(|regions| regions.scales.clone()).unwrap_or_default(),
        data: data.collect(),
        has_more,
        next: has_more.then_some(end as u64),
    })
}

fn described(file: &PredictionFile, image: usize, picture: Option<(&Pictures, usize)>) -> PredictedImage {
    let Predictions { positions, labels, student, teacher, .. } = &file.predictions;
    let name = |class: u32| file.names.as_ref().and_then(|names| names.get(class as usize)).cloned();
    let of_network = |answers: &NetworkPredictions| NetworkPrediction {
        predicted: answers.predicted[image],
        class: name(answers.predicted[image]),
        confidence: answers.confidence[image],
        label_probability: answers.of_label[image],
    };
    let regions = picture.and_then(|(pictures, place)| {
        let regions = pictures.regions.as_ref()?;
        let count = regions.of_image();
        let own = place * count..(place + 1) * count;
        Some(RegionPredictions {
            student: regions.student[own.clone()].to_vec(),
            teacher: regions.teacher[own.clone()].to_vec(),
            complementary: regions.complementary[own].to_vec(),
        })
    });
    PredictedImage {
        position: positions[image],
        label: labels[image],
        class: name(labels[image]),
        outcome: file.predictions.outcome(image),
        difference: file.predictions.difference(image),
        student: of_network(student),
        teacher: teacher.as_ref().map(of_network),
        picture: picture.map(|(pictures, place)| {
            let jpeg = dataset::encode_jpeg(pictures.planes(place), pictures.side);
            format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(jpeg))
        }),
        regions,
    }
}
