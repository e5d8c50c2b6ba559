//! `/v1/pareto`

use std::cmp::Ordering;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::jobs::labels;
use crate::db::latencies::{self, FinishedStudent, Latency, StudentFilter};
use crate::http::AppState;
use crate::http::constraints::{Constraints, MEGABYTE, Measures, Verdict};
use crate::http::error::ApiError;
use crate::http::extract::{Query, decimal, whole};
use crate::http::latencies::missing;

/// Most characters of a data set's name with its version, and of a sweep's id.
const LONGEST_FILTER: usize = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ParetoParameters {
    /// Only students of jobs with this label, as `key:value`. Can be repeated.
    #[serde(default)]
    label: Vec<String>,
    /// Only students of this data set, with any version of it unless one is named.
    #[param(max_length = 200)]
    dataset: Option<String>,
    /// Only students of this sweep.
    #[param(max_length = 200)]
    sweep: Option<String>,
    /// Constraint: most milliseconds for one image.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    latency_ms: Option<f64>,
    /// Constraint: most milliseconds for 64 images at a time.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    latency_64_ms: Option<f64>,
    /// Constraint: most megabytes of 1,000,000 bytes.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    size_mb: Option<f64>,
    /// Constraint: most parameters.
    #[serde(default, deserialize_with = "decimal")]
    #[param(exclusive_minimum = 0)]
    parameters: Option<f64>,
    /// Most students, of which the newest are taken.
    #[serde(default, deserialize_with = "whole::<1, 5000, _>")]
    #[param(minimum = 1, maximum = 5000, default = 1000)]
    limit: Option<i64>,
}

/// Finished students with what they cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pareto {
    /// The most accurate first.
    pub data: Vec<ParetoStudent>,
    /// Number of all matching students, which may exceed the limit.
    pub total: i64,
    /// The constraints of the request.
    pub constraints: Constraints,
    /// Why this server measures no latencies; null if it does.
    pub not_measured: Option<String>,
}

/// A finished student.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParetoStudent {
    /// Id of its job.
    pub id: String,
    /// The job's name.
    pub name: String,
    /// Its method.
    pub method: String,
    /// Its architecture, or name of the exported network.
    pub student: String,
    /// Name of the data set. Accuracies on different ones cannot be compared.
    pub dataset: String,
    /// Best top-1 accuracy, in percent.
    pub top1: f64,
    /// Number of trained parameters.
    pub parameters: i64,
    /// Size of its weights in megabytes of 1,000,000 bytes.
    pub size_mb: f64,
    /// Null before it was measured, and if it cannot be.
    pub latency: Option<Latency>,
    /// Why it cannot be measured.
    pub latency_failure: Option<String>,
    /// Whether it meets the constraints.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The Pareto fronts that it is on, of `latency_ms`, `latency_64_ms`, `size_mb` and `parameters`: no other student
    /// of its data set is as accurate and costs less, or is more accurate and costs no more. Latencies are compared on
    /// one CPU only.
    pub front: Vec<String>,
}

/// Compare finished students by what they cost
///
/// Accuracy against latency on the server's CPU, size and parameters, with the students on each Pareto front and those
/// that meet the constraints. A job's student is measured within seconds after the job's end, if the server has ONNX
/// Runtime.
#[utoipa::path(get, path = "/v1/pareto", tag = "jobs", operation_id = "get_pareto", params(ParetoParameters),
    responses((status = 200, body = Pareto)))]
pub async fn get(
    State(state): State<AppState>,
    Query(parameters): Query<ParetoParameters>,
) -> Result<Json<Pareto>, ApiError> {
    let ParetoParameters { label, dataset, sweep, latency_ms, latency_64_ms, size_mb, parameters, limit } = parameters;
    let constraints = Constraints { latency_ms, latency_64_ms, size_mb, parameters }.checked()?;
    let not_measured = missing(&state);
    let Some(labels) = labels(label)? else {
        return Ok(Json(Pareto { data: Vec::new(), total: 0, constraints, not_measured }));
    };
    for (parameter, text) in [("dataset", &dataset), ("sweep", &sweep)] {
        if text.as_ref().is_some_and(|text| text.contains('\0') || text.chars().count() > LONGEST_FILTER) {
            return Err(ApiError::malformed(format!(
                "query parameters: {parameter}: expected a text of at most {LONGEST_FILTER} characters, without NUL"
            )));
        }
    }
    let filter = StudentFilter { labels, dataset, sweep };
    let (students, total) = latencies::students(&state.pool, &filter, limit.unwrap_or(1000)).await?;
    let mut data: Vec<_> = students.into_iter().map(|student| judged(student, constraints)).collect();
    mark_fronts(&mut data);
    data.sort_by(|one, other| other.top1.total_cmp(&one.top1));
    Ok(Json(Pareto { data, total, constraints, not_measured }))
}

fn judged(student: FinishedStudent, constraints: Constraints) -> ParetoStudent {
    let latency = student.latency;
    let size_mb = student.size_bytes as f64 / MEGABYTE;
    let verdict = constraints.judge(Measures::of(student.parameters as f64, size_mb, latency.as_ref()));
    ParetoStudent {
        id: student.id,
        name: student.name,
        method: student.method,
        student: student.student,
        dataset: student.dataset,
        top1: student.top1,
        parameters: student.parameters,
        size_mb,
        latency,
        latency_failure: student.failure,
        verdict,
        front: Vec::new(),
    }
}

/// What a student costs on an axis, and among which others it is compared; `None` if that is not known.
type CostOf = fn(&ParetoStudent) -> Option<(f64, &str)>;

const AXES: [(&str, CostOf); 4] = [
    ("latency_ms", |student| cost_of_batch(student, 1)),
    ("latency_64_ms", |student| cost_of_batch(student, 64)),
    ("size_mb", |student| Some((student.size_mb, ""))),
    ("parameters", |student| Some((student.parameters as f64, ""))),
];

fn cost_of_batch(student: &ParetoStudent, batch: u32) -> Option<(f64, &str)> {
    let latency = student.latency.as_ref()?;
    Some((latency.median_ms(batch)?, latency.cpu.as_str()))
}

/// A student's cost, its top-1 and its place in the list.
type Placed = (f64, f64, usize);

/// Records the fronts that each student is on.
fn mark_fronts(students: &mut [ParetoStudent]) {
    for (axis, cost) in AXES {
        let mut groups: BTreeMap<(String, String), Vec<Placed>> = BTreeMap::new();
        for (place, student) in students.iter().enumerate() {
            let Some((cost, cpu)) = cost(student) else { continue };
            groups.entry((student.dataset.clone(), cpu.to_owned())).or_default().push((cost, student.top1, place));
        }
        for mut group in groups.into_values() {
            for place in front(&mut group) {
                students[place].front.push(axis.to_owned());
            }
        }
    }
}

/// The places of the points (cost, accuracy, place) that no other dominates: as cheap and more accurate, or as accurate
/// and cheaper.
fn front(group: &mut [(f64, f64, usize)]) -> Vec<usize> {
    group.sort_by(|one, other| match one.0.total_cmp(&other.0) {
        Ordering::Equal => other.1.total_cmp(&one.1),
        different => different,
    });
    let mut best: Option<(f64, f64)> = None;
    let mut found = Vec::new();
    for &(cost, top1, place) in &*group {
        // Points equal to the last one are on the front, too.
        let is_twin = best.is_some_and(|(least, most)| cost <= least && top1 >= most);
        if is_twin || best.is_none_or(|(_, most)| top1 > most) {
            found.push(place);
            best = Some((cost, top1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_has_whoever_nobody_beats() {
        let mut group = [
            (1.0, 60.0, 0),
            (2.0, 70.0, 1),
            (2.0, 65.0, 2),
            (3.0, 70.0, 3),
            (4.0, 80.0, 4),
            (1.0, 60.0, 5),
            (1.5, 50.0, 6),
        ];
        let mut found = front(&mut group);
        found.sort_unstable();
        assert_eq!(found, [0, 1, 4, 5]);
    }
}
