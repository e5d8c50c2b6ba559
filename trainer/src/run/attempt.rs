//! What an attempt at a run computes with, and how that differs from the attempt before.

use serde::{Deserialize, Serialize};

use crate::device::card::Card;

/// One attempt at a run: what the bytes of the result depend on besides specification and data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// From 1.
    pub number: u32,
    pub started_at: chrono::DateTime<chrono::Utc>,
    /// Steps that earlier attempts have done.
    pub from_step: u64,
    /// Such as `cpu` or `cuda:0`.
    pub device: String,
    /// The GPU of rank 0. `None` on the CPU, and of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// `float32`, `tf32` or `bfloat16`.
    pub precision: String,
    /// Threads that compute on the CPU.
    pub threads: u32,
    /// The limit in bytes on decoded images in memory. It decides whether a split is streamed, and so shuffled
    /// differently.
    pub data_memory: u64,
    /// Whether one kernel computes the distillation loss, which rounds differently.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loss_kernel: bool,
    /// Whether kernels of our own compute the student's batch norms on a GPU, which round differently.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub norm_kernels: bool,
}

impl AttemptRecord {
    /// A warning if the attempt goes on where `earlier` stopped, but on another card: with other kernels the student's
    /// bytes may be others. `None` if that cannot be told.
    #[must_use]
    pub fn other_card(&self, earlier: &Self) -> Option<String> {
        let (own, before) = (self.card.as_ref()?, earlier.card.as_ref()?);
        (own != before).then(|| {
            format!(
                "this attempt computes on {own}, and the one before it on {before}: the student may differ in its last \
                 digits from that of an uninterrupted run"
            )
        })
    }

    /// What computes the distillation loss.
    #[must_use]
    pub fn loss_by(&self) -> &'static str {
        if self.loss_kernel { "the kernel" } else { "libtorch's operators" }
    }

    /// What computes the student's batch norms.
    #[must_use]
    pub fn norms_by(&self) -> &'static str {
        if self.norm_kernels { "the kernels" } else { "other operators" }
    }

    /// Warnings if the attempt goes on where `earlier` stopped, but computes something otherwise.
    pub fn otherwise_than(&self, earlier: &Self) -> impl Iterator<Item = String> {
        let parts = [
            ("the distillation loss is", self.loss_by(), earlier.loss_by()),
            ("the student's batch norms are", self.norms_by(), earlier.norms_by()),
        ];
        parts.into_iter().filter(|(_, now, before)| now != before).map(|(what, now, before)| {
            format!(
                "{what} computed by {now}, and in the attempt before this one by {before}: the student may differ in its \
                 last digits from that of an uninterrupted run"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(card: Option<&str>) -> AttemptRecord {
        let card = card.map(|name| Card {
            name: name.to_owned(),
            capability: "9.0".to_owned(),
            cudnn: "9.19.0".to_owned(),
            driver: "580.65.06".to_owned(),
        });
        AttemptRecord {
            number: 1,
            started_at: chrono::DateTime::UNIX_EPOCH,
            from_step: 0,
            device: "cuda:0".to_owned(),
            card,
            precision: "bfloat16".to_owned(),
            threads: 1,
            data_memory: 0,
            loss_kernel: false,
            norm_kernels: false,
        }
    }

    #[test]
    fn an_attempt_that_goes_on_on_another_card_says_so() {
        let (old, new) = (attempt(Some("NVIDIA L4")), attempt(Some("NVIDIA H100")));
        let warning = new.other_card(&old).unwrap();
        assert!(warning.contains("on NVIDIA H100 (") && warning.contains("on NVIDIA L4 ("), "{warning}");
        assert_eq!(new.other_card(&new), None);
        // The CPU, and an attempt of an earlier version.
        assert_eq!((new.other_card(&attempt(None)), attempt(None).other_card(&old)), (None, None));
    }

    #[test]
    fn an_attempt_that_computes_otherwise_than_the_one_before_says_so() {
        let composed = attempt(None);
        let fused = AttemptRecord { loss_kernel: true, ..attempt(None) };
        let both = AttemptRecord { norm_kernels: true, ..fused.clone() };
        let said = |now: &AttemptRecord, before: &AttemptRecord| now.otherwise_than(before).collect::<Vec<_>>();
        let [loss]: [String; 1] = said(&fused, &composed).try_into().unwrap();
        assert!(loss.contains("loss is computed by the kernel, and in the attempt before"), "{loss}");
        let [loss, norms]: [String; 2] = said(&composed, &both).try_into().unwrap();
        assert!(loss.contains("loss is computed by libtorch's operators, and in the attempt before"), "{loss}");
        assert!(norms.contains("batch norms are computed by other operators, and in the attempt before"), "{norms}");
        assert_eq!((said(&both, &both).len(), said(&composed, &composed).len()), (0, 0));
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<AttemptRecord>(&text).unwrap(), both);
    }

    #[test]
    fn a_record_names_its_card_and_one_of_an_earlier_version_has_none() {
        let text = serde_json::to_string(&attempt(Some("NVIDIA L4"))).unwrap();
        assert!(
            text.contains(r#""card":{"name":"NVIDIA L4","capability":"9.0","cudnn":"9.19.0","driver":"580.65.06"}"#)
        );
        let earlier = serde_json::to_string(&attempt(None)).unwrap();
        assert!(!earlier.contains("card"), "{earlier}");
        assert_eq!(serde_json::from_str::<AttemptRecord>(&earlier).unwrap(), attempt(None));
    }
}
