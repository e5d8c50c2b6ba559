//! The statuses of a job and the only function that says which follows which.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a worker, for its teacher's job, or for the end of a back-off.
    Queued,
    /// A worker holds it.
    Running,
    /// A worker holds it and was asked for a checkpoint.
    Pausing,
    /// Waits to be resumed.
    Paused,
    /// A worker holds it and was asked to stop.
    Cancelling,
    /// Its student is published.
    Succeeded,
    /// It will not be tried again.
    Failed,
    /// Stopped by its user.
    Cancelled,
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A worker takes it.
    Claim,
    /// A user asks to stop it.
    Cancel,
    /// A user asks to set it aside.
    Pause,
    /// A user lets it go on.
    Resume,
    /// A user starts it again.
    Retry,
    /// Its trainer finished and its student is published.
    Succeed,
    /// Its attempt failed and another may go better.
    FailForNow,
    /// Its attempt failed, and no other will be made.
    FailForGood,
    /// Its trainer stopped as asked.
    Stopped,
    /// Its worker's lease ran out.
    LeaseExpired,
}

impl Status {
    /// Every status.
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
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing follows by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether a worker holds it.
    #[must_use]
    pub fn is_held(self) -> bool {
        matches!(self, Self::Running | Self::Pausing | Self::Cancelling)
    }

    /// The status after `change`, or none where it is not allowed.
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
            // A request that came too late does not undo a finished student.
            (Self::Running | Self::Pausing | Self::Cancelling, C::Succeed) => Some(Self::Succeeded),
            (Self::Running, C::FailForNow | C::LeaseExpired) => Some(Self::Queued),
            (Self::Pausing, C::FailForNow | C::Stopped | C::LeaseExpired) => Some(Self::Paused),
            (Self::Running | Self::Pausing, C::FailForGood) => Some(Self::Failed),
            // A teacher that will never come.
            (Self::Queued | Self::Paused, C::FailForGood) => Some(Self::Failed),
            // A worker that drains gives its job back.
            (Self::Running, C::Stopped) => Some(Self::Queued),
            (Self::Cancelling, C::Stopped | C::FailForNow | C::FailForGood | C::LeaseExpired) => Some(Self::Cancelled),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole of [`Status::after`], written as a table: a row per status, a column per change, `.` where it is
    /// refused. A new status or change does not compile, or does not pass, until it is decided here.
    #[test]
    fn every_status_meets_every_change_as_decided() {
        let decided = "
                        claim   cancel     pause   resume retry  succeed   for_now   for_good  stopped   lease
            queued      running cancelled  paused  .      .      .         .         failed    .         .
            running     .       cancelling pausing .      .      succeeded queued    failed    queued    queued
            pausing     .       cancelling pausing .      .      succeeded paused    failed    paused    paused
            paused      .       cancelled  paused  queued .      .         .         failed    .         .
            cancelling  .       cancelling .       .      .      succeeded cancelled cancelled cancelled cancelled
            succeeded   .       .          .       .      .      .         .         .         .         .
            failed      .       .          .       .      queued .         .         .         .         .
            cancelled   .       cancelled  .       .      queued .         .         .         .         .
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
    }

    const CHANGES: [Change; 10] = [
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
    ];

    #[test]
    fn names_round_trip() {
        for status in Status::ALL {
            assert_eq!(Status::from_name(status.name()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
    }

    #[test]
    fn a_held_job_whose_lease_expired_is_held_no_longer() {
        for status in Status::ALL.into_iter().filter(|status| status.is_held()) {
            let after = status.after(Change::LeaseExpired).expect("a lease can expire");
            assert!(!after.is_held());
        }
    }
}
