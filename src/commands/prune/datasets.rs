//! Removes versions of data sets that a later upload has superseded and that no job names.

use super::{Round, Total, is_of_all};
use crate::db::datasets;
use crate::db::jobs::Refusal;
use crate::removals;

impl<R: FnMut(String)> Round<'_, R> {
    /// Removes the versions that were superseded at least this many days ago.
    pub(super) async fn remove_datasets(&mut self, days: u32) -> sqlx::Result<Total> {
        let mut total = Total::default();
        // In a dry run, the jobs that would be removed are still there.
        let gone = std::mem::take(&mut self.gone);
        for version in datasets::superseded(self.pool, days, &gone).await? {
            if !self.is_dry_run && !self.remove_dataset(&version.id, days).await? {
                continue;
            }
            let (since, bytes) = (version.since.format("%Y-%m-%d"), version.size_bytes.unsigned_abs());
            let Self { removed, .. } = self;
            (self.report)(format!("{removed} data set {}, superseded on {since}, {bytes} bytes", version.id));
            total.add(bytes);
        }
        Ok(total)
    }

    /// Whether a version and its file are gone. An error if the next one would meet the same.
    async fn remove_dataset(&mut self, id: &str, days: u32) -> sqlx::Result<bool> {
        let files = match datasets::delete_superseded(self.pool, id, days).await {
            Ok(Ok(files)) => files,
            Ok(Err(Refusal::Because(reason))) => {
                (self.report)(format!("kept data set {id}: {reason}"));
                return Ok(false);
            }
            // Uploaded again, named by a new job, or deleted since it was listed.
            Ok(Err(Refusal::NotWhile(_) | Refusal::Missing)) => return Ok(false),
            Err(error) if is_of_all(&error) => return Err(error),
            Err(error) => return Ok(self.check(&format!("data set {id}"), Err(error.into()))),
        };
        let mut is_gone = true;
        for file in &files {
            let outcome = removals::carry_out(self.pool, self.artifacts, file).await;
            is_gone &= self.check(&format!("the file of data set {id}"), outcome);
        }
        Ok(is_gone)
    }
}
