//! What a job's accuracy is compared with.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::spec::Method;

/// What a job's accuracy is compared with: the mean over the succeeded jobs of a simpler method that share its student,
/// data set and training, apart from the seed, and, if the method has a teacher, its teacher.
///
/// That method is the one without scales for a scale-decoupled method (`dkd` for `sdd_dkd`), or else `kd`, or else
/// `none`: the first of which a job has succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Baseline {
    /// The simpler method.
    pub method: Method,
    /// Mean of the best top-1 accuracies of its jobs, in percent.
    pub top1: f64,
    /// Their standard deviation (of the sample); null for a single job.
    pub deviation: Option<f64>,
    /// How many there are, without copies.
    pub jobs: i64,
    /// How many more there are that have the seed and the student of one of these, byte for byte: they count once.
    pub copies: i64,
}

/// The simpler methods that a method is compared with, the best comparison first.
pub(super) fn simpler(method: Method) -> &'static [Method] {
    match method {
        Method::None => &[],
        Method::Kd => &[Method::None],
        Method::Dkd | Method::Nkd | Method::Ttm | Method::Wttm | Method::Dist | Method::SddKd => {
            &[Method::Kd, Method::None]
        }
        Method::SddDkd => &[Method::Dkd, Method::Kd, Method::None],
        Method::SddNkd => &[Method::Nkd, Method::Kd, Method::None],
        Method::SddTtm => &[Method::Ttm, Method::Kd, Method::None],
        Method::SddWttm => &[Method::Wttm, Method::Kd, Method::None],
        Method::SddDist => &[Method::Dist, Method::Kd, Method::None],
    }
}

/// What decides which jobs are compared: jobs of one recipe, teacher and method have one mean.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Setting {
    recipe: Option<String>,
    teacher_key: Option<String>,
    method: Method,
}

/// The means of succeeded jobs.
pub(super) struct Baselines(HashMap<Setting, Baseline>);

impl Baselines {
    /// Reads the means of these recipes, or of all. Jobs of the same seed whose students have the same bytes are copies
    /// of one run, and count as one.
    pub(super) async fn read(pool: &PgPool, recipes: Option<&[String]>) -> sqlx::Result<Self> {
        let rows = sqlx::query!(
            r#"
            select recipe, teacher_key, method, avg(best_top1) as "top1!", stddev_samp(best_top1) as deviation,
                count(*) as "jobs!", sum(copies)::bigint as "copies!"
            from (
                select recipe, teacher_key, method, min(best_top1) as best_top1, count(*) - 1 as copies
                from jobs
                where status = 'succeeded' and best_top1 is not null and ($1::text[] is null or recipe = any($1))
                group by recipe, teacher_key, method, spec #> '{training,seed}',
                    coalesce(result #>> '{student,sha256}', id)
            ) as runs
            group by recipe, teacher_key, method
            "#,
            recipes,
        )
        .fetch_all(pool)
        .await?;
        // No job is compared with those of a method that only another version of the program knows.
        let baselines = rows.into_iter().filter_map(|row| {
            let method = Method::named(&row.method?)?;
            let (top1, deviation, jobs, copies) = (row.top1, row.deviation, row.jobs, row.copies);
            let baseline = Baseline { method, top1, deviation, jobs, copies };
            Some((Setting { recipe: row.recipe, teacher_key: row.teacher_key, method }, baseline))
        });
        Ok(Self(baselines.collect()))
    }

    /// The baseline of a job: the mean of the first simpler method that there is one of.
    pub(super) fn of(
        &self,
        method: Option<&str>,
        recipe: Option<&str>,
        teacher_key: Option<&str>,
    ) -> Option<&Baseline> {
        simpler(Method::named(method?)?).iter().find_map(|&simpler| {
            let teacher_key = teacher_key.filter(|_| simpler != Method::None).map(str::to_owned);
            self.0.get(&Setting { recipe: recipe.map(str::to_owned), teacher_key, method: simpler })
        })
    }
}

/// A job's best accuracy less its baseline's, in percentage points.
pub(super) fn gain(best_top1: Option<f64>, baseline: Option<&Baseline>) -> Option<f64> {
    Some(best_top1? - baseline?.top1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_decoupled_method_is_compared_with_its_own_base_first() {
        let plain = [Method::Kd, Method::Dkd, Method::Nkd, Method::Ttm, Method::Wttm, Method::Dist];
        let decoupled =
            [Method::SddKd, Method::SddDkd, Method::SddNkd, Method::SddTtm, Method::SddWttm, Method::SddDist];
        for method in decoupled {
            let first = simpler(method)[0];
            assert_eq!((first.base(), first.is_scale_decoupled()), (method.base(), false));
        }
        for method in plain.into_iter().chain(decoupled) {
            assert_eq!(simpler(method).last(), Some(&Method::None));
            assert!(!simpler(method).contains(&method));
        }
    }
}
