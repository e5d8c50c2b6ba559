//! `/v1/datasets/{name}/images`

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::dataset::{self, Dataset, DatasetOptions, UNLABELLED};
use crate::http::AppState;
use crate::http::datasets::locate;
use crate::http::error::ApiError;
use crate::http::extract::{Name, Query, whole};

use super::details::no_such;

/// Sides of thumbnails in pixels.
const SIDES: std::ops::RangeInclusive<i64> = 16..=256;
const DEFAULT_SIDE: i64 = 96;
const DEFAULT_LIMIT: i64 = 48;
/// Bytes of a page after which it ends, since clients that read slowly keep their pages in memory.
const MOST_BYTES: usize = 1 << 20;
/// How long a page is made before it ends, since images may be large and decoding takes a turn that others wait for.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImagesParameters {
    /// The split, with labels or without. Default: the one that jobs train on.
    split: Option<String>,
    /// Only images of the class with this name or, if no class has it, with this number.
    class: Option<String>,
    /// The `next` of the previous page.
    #[serde(default, deserialize_with = "whole::<0, 9_007_199_254_740_991, _>")]
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Most images to return. A page that has a mebibyte, or took five seconds to make, ends earlier.
    #[serde(default, deserialize_with = "whole::<1, 100, _>")]
    #[param(minimum = 1, maximum = 100, default = 48)]
    limit: Option<i64>,
    /// Width and height of the thumbnails in pixels.
    #[serde(default, deserialize_with = "whole::<16, 256, _>")]
    #[param(minimum = 16, maximum = 256, default = 96)]
    side: Option<i64>,
}

/// Some images of a split.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImagePage {
    /// The split that the images are from.
    pub split: String,
    /// Number of images of the split or, if `class` is given, of that class in it.
    pub images: u64,
    /// The images, in the order of the files.
    pub data: Vec<DatasetImage>,
    /// Whether another page follows.
    pub has_more: bool,
    /// The `after` parameter for the next page; null on the last page.
    pub next: Option<u64>,
}

/// An image of a data set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DatasetImage {
    /// Position in the split.
    pub position: u64,
    /// Number of its class, from 0; null in a split without labels.
    pub label: Option<u32>,
    /// Name of its class; null if it has none.
    pub class: Option<String>,
    /// The central square of the image as a JPEG, in a `data:` URL; null if it cannot be decoded.
    pub thumbnail: Option<String>,
    /// Why it cannot be decoded; null if it can.
    pub fault: Option<String>,
}

/// Why no images can be returned.
#[derive(Debug)]
pub enum WrongImages {
    /// The data set, or the request for it, is at fault.
    Dataset(dataset::Error),
    Class(String),
}

/// Look at images of a data set
///
/// Thumbnails with their classes, by split and class.
#[utoipa::path(get, path = "/v1/datasets/{name}/images", tag = "datasets", operation_id = "list_dataset_images",
    params(("name" = String, Path, description = "Name of the data set, or `name@version`"), ImagesParameters),
    responses((status = 200, body = ImagePage)))]
pub async fn list(
    State(state): State<AppState>,
    name: Name,
    Query(parameters): Query<ImagesParameters>,
) -> Result<Response, ApiError> {
    let name = name.0;
    let Some(located) = locate(&state, &name).await? else { return Err(no_such(&state, &name).await) };
    let files = located.files(&state).await?;
    let base = files.base().to_owned();
    let follow_links = state.settings.follow_links && located.uploaded().is_none();
    let id = located.uploaded().map_or_else(|| files.path.display().to_string(), |upload| upload.id.clone());
    let asked = format!("{id} {}", serde_json::to_string(&parameters).map_err(anyhow::Error::from)?);
    let lookup = move || {
        let options = DatasetOptions { follow_links, ..DatasetOptions::default() };
        let dataset = Dataset::open(&files.path, &options).map_err(WrongImages::Dataset)?;
        page(&dataset, &parameters, LONGEST)
    };
    match &*state.pictures.find(asked, lookup).await? {
        Ok(page) => Ok(Json(page).into_response()),
        Err(WrongImages::Class(message)) => Err(ApiError::malformed(format!("query parameters: class: {message}"))),
        Err(WrongImages::Dataset(error @ dataset::Error::NoSplit { .. })) => {
            Err(ApiError::malformed(format!("query parameters: split: {}", error.relative_to(&base))))
        }
        Err(WrongImages::Dataset(error)) if error.is_users() => Err(ApiError::invalid(error.relative_to(&base))),
        Err(WrongImages::Dataset(error)) => Err(ApiError::Internal(anyhow::anyhow!("{error}"))),
    }
}

/// Makes a page, for no longer than that unless it has no image yet.
fn page(dataset: &Dataset, parameters: &ImagesParameters, longest: Duration) -> Result<ImagePage, WrongImages> {
    let start = Instant::now();
    let split = match &parameters.split {
        Some(split) => split.clone(),
        None => dataset.train_split(None).map_err(WrongImages::Dataset)?,
    };
    let is_unlabelled = dataset.unlabelled_splits().contains(&split);
    let images = if is_unlabelled { dataset.without_labels(&split) } else { dataset.split(&split) };
    let images = images.map_err(WrongImages::Dataset)?;
    let names = dataset.classes().names.as_deref();
    let class = match &parameters.class {
        Some(class) => Some(dataset::class_of(class, names, dataset.classes().count).map_err(WrongImages::Class)?),
        None => None,
    };
    let of_class = |label: &u32| class.is_none_or(|class| class == *label);
    let count = images.labels().iter().filter(|label| of_class(label)).count() as u64;
    let first = parameters.after.map_or(0, |after| usize::try_from(after).unwrap_or(usize::MAX).saturating_add(1));
    let limit = usize::try_from(parameters.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(1);
    let side = parameters.side.unwrap_or(DEFAULT_SIDE).clamp(*SIDES.start(), *SIDES.end());
    let side = u32::try_from(side).unwrap_or(16);
    let wanted = images.labels().iter().enumerate().skip(first).filter(|(_, label)| of_class(label));
    let mut wanted = wanted.map(|(index, &label)| (index, label)).take(limit + 1).collect::<Vec<_>>();
    let mut has_more = wanted.len() > limit;
    wanted.truncate(limit);
    let (mut data, mut bytes) = (Vec::new(), 0);
    for (index, label) in wanted {
        if bytes >= MOST_BYTES || (!data.is_empty() && start.elapsed() >= longest) {
            has_more = true;
            break;
        }
        let (thumbnail, fault) = match dataset::thumbnail(&*images, index, side) {
            Ok(jpeg) => (Some(format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(jpeg))), None),
            Err(error) if error.is_users() => (None, Some(error.detail())),
            Err(error) => return Err(WrongImages::Dataset(error)),
        };
        let class = names.and_then(|names| names.get(label as usize).cloned());
        bytes += [&thumbnail, &fault, &class].into_iter().flatten().map(String::len).sum::<usize>();
        let label = (label != UNLABELLED).then_some(label);
        data.push(DatasetImage { position: index as u64, label, class, thumbnail, fault });
    }
    let next = data.last().filter(|_| has_more).map(|image| image.position);
    Ok(ImagePage { split, images: count, data, has_more, next })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_page_that_takes_too_long_ends_early_and_the_next_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cat/1", "cat/2", "dog/3"] {
            let path = dir.path().join("train").join(format!("{name}.ppm"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"P6 1 1 255\nabc").unwrap();
        }
        let dataset = Dataset::open(dir.path(), &DatasetOptions::default()).unwrap();
        let (mut after, mut positions) = (None, Vec::new());
        loop {
            let parameters = ImagesParameters { split: None, class: None, after, limit: None, side: None };
            let ImagePage { data, has_more, next, .. } = page(&dataset, &parameters, Duration::ZERO).unwrap();
            positions.push(data.iter().map(|image| image.position).collect::<Vec<_>>());
            if !has_more {
                break;
            }
            after = next.and_then(|next| i64::try_from(next).ok());
        }
        assert_eq!(positions, [[0], [1], [2]]);
    }
}
