//! The speeds of earlier jobs, read once for all estimates of a request.

use super::AppState;
use super::error::ApiError;
use super::estimate::{Costs, ImageCounts, Time};
use crate::db;
use crate::db::jobs::waiting::Prospects;
use crate::db::jobs::{DeviceKind, MeasuredJob};
use crate::spec::JobSpec;

/// Number of jobs that an estimate of the time is based on.
const MEASURED_JOBS: i64 = 100;

/// The newest jobs that have been measured on each kind of device, read when they are first needed.
#[derive(Debug, Default)]
pub struct Measurements(Vec<(DeviceKind, Vec<MeasuredJob>)>);

impl Measurements {
    /// The time on the devices of the workers that could run a job: on a GPU where there are both, and on any device
    /// that jobs were measured on where there is no such worker. `None` if no job has been measured.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn time(
        &mut self,
        state: &AppState,
        spec: &JobSpec,
        (classes, costs, images): (u32, Costs, ImageCounts),
        prospects: &Prospects,
    ) -> Result<Option<Time>, ApiError> {
        let any = [DeviceKind::Cuda, DeviceKind::Cpu];
        for kind in if prospects.kinds.is_empty() { any.as_slice() } else { prospects.kinds.as_slice() } {
            let measured = self.of(state, *kind).await?;
            if let Some(time) = Time::estimate(spec, classes, costs, images, *kind, measured) {
                return Ok(Some(time));
            }
        }
        Ok(None)
    }

    async fn of(&mut self, state: &AppState, kind: DeviceKind) -> Result<&[MeasuredJob], ApiError> {
        let known = self.0.iter().position(|(other, _)| *other == kind);
        let place = match known {
            Some(place) => place,
            None => {
                self.0.push((kind, db::jobs::measured(&state.pool, kind, MEASURED_JOBS).await?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[place].1)
    }
}
