//! `training.teacher_cache`: what is kept of the teacher's outputs from epoch to epoch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::quoted;

/// A view that comes up once in a run is not worth keeping, and published runs have 240 epochs.
const MOST_VIEWS: u32 = 999;

/// How an image differs from epoch to epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variation {
    /// It is the same.
    None,
    /// It is augmented, independently of the others.
    Drawn,
    /// It is mixed with others, which depend on the order of the epoch.
    Mixed,
}

/// What is kept of the teacher's outputs from epoch to epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TeacherCache {
    /// Nothing: the teacher sees every image in every epoch.
    Off,
    /// Everything, which changes nothing: the images are the same in every epoch.
    Exact,
    /// Each image is augmented in this many ways, drawn once, instead of differently in every epoch.
    Views(u32),
}

impl TeacherCache {
    /// The default: what changes no result.
    pub(super) fn usual(variation: Variation) -> Self {
        if variation == Variation::None { Self::Exact } else { Self::Off }
    }

    /// Why it cannot be used with images that vary like that, and what can: what is kept must be what the teacher says
    /// of the very image that the student sees.
    pub(super) fn objection(self, variation: Variation) -> Option<&'static str> {
        match (self, variation) {
            (Self::Exact, Variation::Drawn) => Some(
                "\"exact\" needs images that are the same in every epoch, and this augmentation changes them: use \
                 \"views:<n>\", such as \"views:4\", for n versions of each image, or augmentation \"none\" without \
                 auto_augment and random_erasing",
            ),
            (Self::Views(_), Variation::None) => {
                Some("augmentation \"none\" has one view of an image: use \"exact\", or an augmentation")
            }
            (Self::Exact | Self::Views(_), Variation::Mixed) => Some(
                "mixup and CutMix mix an image with another one in every epoch, so that nothing can be kept of the \
                 teacher's outputs: use \"off\", or leave out mixup_alpha and cutmix_alpha",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for TeacherCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => formatter.write_str("off"),
            Self::Exact => formatter.write_str("exact"),
            Self::Views(views) => write!(formatter, "views:{views}"),
        }
    }
}

impl From<TeacherCache> for String {
    fn from(cache: TeacherCache) -> Self {
        cache.to_string()
    }
}

impl FromStr for TeacherCache {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let views = || {
            let number = text.strip_prefix("views:")?;
            let is_plain = number.bytes().all(|digit| digit.is_ascii_digit()) && !number.starts_with('0');
            number.parse().ok().filter(|views| is_plain && (1..=MOST_VIEWS).contains(views))
        };
        match text {
            "off" => Ok(Self::Off),
            "exact" => Ok(Self::Exact),
            _ => views().map(Self::Views).ok_or_else(|| {
                format!(
                    "expected \"off\", \"exact\" or \"views:<n>\" with n from 1 to {MOST_VIEWS}, found {text}",
                    text = quoted(text)
                )
            }),
        }
    }
}

impl TryFrom<String> for TeacherCache {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
