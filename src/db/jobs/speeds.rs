//! How fast jobs trained, for estimates.

use sqlx::PgPool;
use sqlx::types::Json;

use crate::spec::JobSpec;

/// What the devices of a worker or of a trainer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

impl DeviceKind {
    /// The kind of a device such as `cpu` or `cuda:0`, or of several with commas between them.
    #[must_use]
    pub fn of(device: &str) -> Self {
        if device.starts_with("cuda") { Self::Cuda } else { Self::Cpu }
    }

    /// `cpu` or `cuda`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// A job that has trained, or trains now.
#[derive(Debug)]
pub struct MeasuredJob {
    pub spec: JobSpec,
    /// Its latest rate in training images per second.
    pub images_per_second: f64,
    /// Multiply-accumulates per image of networks without an architecture, as far as their checkpoints are still there.
    pub macs: ExportedMacs,
}

/// Multiply-accumulates per image of exported networks.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportedMacs {
    pub teacher: Option<f64>,
    pub student: Option<f64>,
}

/// The newest jobs that have been measured on such a device. Jobs of another version, whose specifications this one
/// cannot read, are left out.
pub async fn measured(pool: &PgPool, kind: DeviceKind, most: i64) -> sqlx::Result<Vec<MeasuredJob>> {
    let rows = sqlx::query!(
        r#"
        select readable(spec) as "spec!: Json<serde_json::Value>",
            finite_number(progress -> 'images_per_second') as "images_per_second!",
            (select finite_number(network -> 'macs') from checkpoints
                where student_architecture is null and checkpoints.id = spec #>> '{student,checkpoint}') as student_macs,
            (select finite_number(network -> 'macs') from checkpoints
                where teacher_architecture is null and checkpoints.id = coalesce(spec #>> '{teacher,checkpoint}', (
                    select of_teacher.spec #>> '{student,checkpoint}' from jobs as of_teacher
                    where of_teacher.id = jobs.spec #>> '{teacher,job}'))) as teacher_macs
        from jobs, lateral (
            select attempts.device from attempts where attempts.job_id = jobs.id and attempts.device is not null
            order by attempts.attempt desc limit 1) as last
        where finite_number(progress -> 'images_per_second') > 0 and (last.device like 'cuda%') = $1
        order by id desc limit $2
        "#,
        kind == DeviceKind::Cuda,
        most,
    )
    .fetch_all(pool)
    .await?;
    let jobs = rows.into_iter().filter_map(|row| {
        let macs = ExportedMacs { teacher: row.teacher_macs, student: row.student_macs };
        let spec = JobSpec::from_stored(&row.spec.0).ok()?;
        Some(MeasuredJob { spec, images_per_second: row.images_per_second, macs })
    });
    Ok(jobs.collect())
}
