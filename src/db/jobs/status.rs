//! The statuses of a job, and which follows which. A new job is [`Queued`](Status::Queued); every status that is
//! written after that comes from [`Status::after`].

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::text_status::text_status;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a worker, for its teacher's job, or for the end of a back-off.
    Queued,
    /// A worker holds it.
    Running,
    /// A worker holds it and was asked to write a checkpoint and stop.
    Pausing,
    /// Waits for its user to resume it.
    Paused,
    /// A worker holds it and was asked to stop.
    Cancelling,
    /// Its student is published.
    Succeeded,
    /// No attempt succeeded, and no other will be made.
    Failed,
    /// Its user stopped it.
    Cancelled,
    /// A newer version of the program gave it a status that this one does not know, and does not change.
    Unknown,
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Claim,
    Cancel,
    Pause,
    Resume,
    Retry,
    /// Its trainer finished and its student is published.
    Succeed,
    /// Its attempt failed, and another will be made.
    FailForNow,
    /// Its attempt failed and no other will be made, or its teacher will never come.
    FailForGood,
    /// Its trainer stopped as asked.
    Stopped,
    /// Its trainer stopped where the job is compared with the others of its sweep.
    RungReached,
    /// Its worker's lease ran out.
    LeaseExpired,
}

impl Status {
    /// Every status that this program knows.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The statuses that only a user can change. [`finished_at`](super::Job::finished_at) is set in these and in no
    /// other.
    pub const FINAL: [Self; 3] = [Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name in the database and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    /// Whether only a user can change it.
    #[must_use]
    pub fn is_final(self) -> bool {
        Self::FINAL.contains(&self)
    }

    /// The status after `change`, or none if it is not allowed.
    #[must_use]
    pub fn after(self, change: Change) -> Option<Self> {
        use Change as C;
        match (self, change) {
            (Self::Queued, C::Claim) => Some(Self::Running),
            (Self::Queued | Self::Paused, C::Cancel) => Some(Self::Cancelled),
            (Self::Running | Self::Pausing, C::Cancel) => Some(Self::Cancelling),
            (Self::Cancelling | Self::Cancelled, C::Cancel) => Some(self),
            (Self::Queued, C::Pause) => Some(Self::Paused),
            (Self::Running, C::Pause) => Some(Self::Pausing),
            (Self::Pausing | Self::Paused, C::Pause) => Some(self),
            (Self::Paused, C::Resume) => Some(Self::Queued),
            (Self::Failed | Self::Cancelled, C::Retry) => Some(Self::Queued),
            // A request that comes too late does not undo a finished student.
            (Self::Running | Self::Pausing | Self::Cancelling, C::Succeed) => Some(Self::Succeeded),
            (Self::Running, C::FailForNow | C::LeaseExpired) => Some(Self::Queued),
            (Self::Pausing, C::FailForNow | C::Stopped | C::LeaseExpired) => Some(Self::Paused),
            (Self::Running | Self::Pausing, C::RungReached) => Some(Self::Paused),
            (Self::Running | Self::Pausing, C::FailForGood) => Some(Self::Failed),
            // Its teacher will never come.
            (Self::Queued | Self::Paused, C::FailForGood) => Some(Self::Failed),
            // A worker that drains returns its job to the queue.
            (Self::Running, C::Stopped) => Some(Self::Queued),
            (Self::Cancelling, C::Stopped | C::RungReached | C::FailForNow | C::FailForGood | C::LeaseExpired) => {
                Some(Self::Cancelled)
            }
            _ => None,
        }
    }
}

text_status!(Status);

#[cfg(test)]
mod tests {
    use sqlx::Encode;
    use sqlx::postgres::PgArgumentBuffer;

    use super::*;

    /// The whole of [`Status::after`], written as a table: a row per status, a column per change, `.` where it is
    /// refused. A new status or change does not compile, or does not pass, until it is decided here.
    #[test]
    fn every_status_meets_every_change_as_decided() {
        let decided = "
                        claim   cancel     pause   resume retry  succeed   for_now   for_good  stopped   lease     rung
            queued      running cancelled  paused  .      .      .         .         failed    .         .         .
            running     .       cancelling pausing .      .      succeeded queued    failed    queued    queued    paused
            pausing     .       cancelling pausing .      .      succeeded paused    failed    paused    paused    paused
            paused      .       cancelled  paused  queued .      .         .         failed    .         .         .
            cancelling  .       cancelling .       .      .      succeeded cancelled cancelled cancelled cancelled cancelled
            succeeded   .       .          .       .      .      .         .         .         .         .         .
            failed      .       .          .       .      queued .         .         .         .         .         .
            cancelled   .       cancelled  .       .      queued .         .         .         .         .         .
        ";
        let column = |change: Change| match change {
            Change::Claim => 1,
            Change::Cancel => 2,
            Change::Pause => 3,
            Change::Resume => 4,
            Change::Retry => 5,
            Change::Succeed => 6,
            Change::FailForNow => 7,
            Change::FailForGood => 8,
            Change::Stopped => 9,
            Change::LeaseExpired => 10,
            Change::RungReached => 11,
        };
        let rows: Vec<Vec<&str>> = decided
            .lines()
            .skip(2)
            .map(|line| line.split_whitespace().collect())
            .filter(|row: &Vec<_>| !row.is_empty())
            .collect();
        assert_eq!(rows.len(), Status::ALL.len());
        for status in Status::ALL {
            let row = rows.iter().find(|row| row[0] == status.name()).expect("a row for every status");
            for change in CHANGES {
                let after = status.after(change).map_or(".", Status::name);
                assert_eq!(after, row[column(change)], "{} after {change:?}", status.name());
            }
        }
        assert!(CHANGES.iter().all(|change| Status::Unknown.after(*change).is_none()));
    }

    const CHANGES: [Change; 11] = [
        Change::Claim,
        Change::Cancel,
        Change::Pause,
        Change::Resume,
        Change::Retry,
        Change::Succeed,
        Change::FailForNow,
        Change::FailForGood,
        Change::Stopped,
        Change::LeaseExpired,
        Change::RungReached,
    ];

    #[test]
    fn a_status_has_one_name_everywhere() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
            let mut stored = PgArgumentBuffer::default();
            assert!(!status.encode_by_ref(&mut stored).unwrap().is_null());
            assert_eq!(&stored[..], status.name().as_bytes());
        }
    }
}
