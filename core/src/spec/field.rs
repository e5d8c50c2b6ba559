//! What the [table of fields](super::fields) says of a field.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::{BaseLoss, Method};

/// JSON numbers are exact up to 2^53 in every language that may read a specification back.
pub(super) const LARGEST_EXACT: i64 = (1 << 53) - 1;
pub(super) const MOST_EPOCHS: i64 = 100_000;

/// [`Field::new`], in few characters for the table.
pub(super) const fn field(name: &'static str, kind: Kind, description: &'static str) -> Field {
    Field::new(name, kind, description)
}

/// A JSON object and its fields, in the order in which people read them.
#[derive(Debug)]
pub struct Object {
    /// The name of its schema; for one of several [`Kind::Variants`], its `type`.
    pub name: &'static str,
    pub description: &'static str,
    pub fields: &'static [Field],
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: &'static str,
    /// One sentence for the reference and the form.
    pub description: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub used_by: UsedBy,
    /// Whether methods that do not use the field ignore it instead of refusing it.
    pub is_ignored_elsewhere: bool,
    /// The kind of document that has it; `None` for both.
    pub only_in: Option<Document>,
    /// What `null` means where it differs from leaving the field out.
    pub null: Option<&'static str>,
    /// The form's label, where the name does not make one.
    pub title: Option<&'static str>,
    /// Whether the form shows it only on request.
    pub is_rare: bool,
    /// Whether jobs stored by earlier versions lack it.
    pub is_newer: bool,
    /// Whether the resolved specification has other fields in its place.
    pub is_in_requests_only: bool,
}

/// What is written in this format: data and checkpoints are named differently in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The body of `POST /v1/jobs`.
    Job,
    /// The file of `distillery train`.
    TrainingFile,
}

/// What a field may hold. Ranges include both ends.
#[derive(Debug, Clone)]
pub enum Kind {
    /// 1 to `longest` characters without control characters, and not blanks alone.
    Text {
        longest: usize,
    },
    /// A [`Kind::Text`] that names a directory entry or a split, and never a path.
    Name {
        longest: usize,
    },
    Architecture,
    CheckpointId,
    Path,
    /// Known, and refused with this advice.
    Refused(&'static str),
    Integer(RangeInclusive<i64>),
    Number(RangeInclusive<f64>),
    Boolean,
    /// A name of the enumeration with this schema.
    Choice(&'static str),
    Integers {
        longest: usize,
        each: RangeInclusive<i64>,
    },
    Numbers {
        longest: usize,
        each: RangeInclusive<f64>,
    },
    /// 1 to `longest` names of 1 to `each` characters.
    Names {
        longest: usize,
        each: usize,
    },
    /// Three numbers: red, green and blue.
    Channels(RangeInclusive<f64>),
    Labels,
    TeacherCache,
    /// `balanced`, or a number in this range for each class.
    ClassWeights {
        longest: usize,
        each: RangeInclusive<f64>,
    },
    Object(&'static Object),
    /// One of several objects, told apart by `type`; the first by default.
    Variants {
        name: &'static str,
        variants: &'static [Object],
    },
}

/// What holds where a field is left out.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// The field cannot be left out; what to write.
    Required(&'static str),
    /// The job does not have it.
    Absent,
    Is(Literal),
    /// It depends on the method.
    Of(fn(Method) -> Literal),
    /// It follows from other fields, as the description says; `request.rs` computes it.
    Follows,
}

/// A value that a constant can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Literal {
    Integer(i64),
    Number(f64),
    Boolean(bool),
    Text(&'static str),
    /// An object without members.
    Empty,
}

/// The methods that use a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedBy {
    All,
    Distillation,
    ScaleDecoupled,
    /// Those that are built from one of these losses.
    Of(&'static [BaseLoss]),
}

impl Literal {
    pub(super) fn json(self) -> Value {
        match self {
            Self::Integer(number) => json!(number),
            Self::Number(number) => json!(number),
            Self::Boolean(truth) => json!(truth),
            Self::Text(text) => json!(text),
            Self::Empty => json!({}),
        }
    }
}

impl UsedBy {
    pub(super) fn includes(self, method: Method) -> bool {
        match self {
            Self::All => true,
            Self::Distillation => method.base().is_some(),
            Self::ScaleDecoupled => method.is_scale_decoupled(),
            Self::Of(losses) => method.base().is_some_and(|base| losses.contains(&base)),
        }
    }

    pub(super) fn methods(self) -> impl Iterator<Item = Method> {
        Method::ALL.into_iter().filter(move |&method| self.includes(method))
    }

    /// The methods in words, for a message.
    pub(super) fn words(self) -> String {
        match self {
            Self::All => "every method".to_owned(),
            Self::Distillation => "distillation methods".to_owned(),
            Self::ScaleDecoupled => "sdd_ methods".to_owned(),
            Self::Of(_) => {
                let names: Vec<_> = self.methods().map(Method::name).collect();
                let (last, others) = names.split_last().expect("some method has the loss");
                format!("{} and {last}", others.join(", "))
            }
        }
    }
}

impl Field {
    pub(super) const fn new(name: &'static str, kind: Kind, description: &'static str) -> Self {
        Self {
            name,
            description,
            kind,
            default: Default::Absent,
            used_by: UsedBy::All,
            is_ignored_elsewhere: false,
            only_in: None,
            null: None,
            title: None,
            is_rare: false,
            is_newer: false,
            is_in_requests_only: false,
        }
    }

    pub(super) const fn required(self, advice: &'static str) -> Self {
        Self { default: Default::Required(advice), ..self }
    }

    pub(super) const fn default(self, literal: Literal) -> Self {
        Self { default: Default::Is(literal), ..self }
    }

    pub(super) const fn default_of(self, of: fn(Method) -> Literal) -> Self {
        Self { default: Default::Of(of), ..self }
    }

    pub(super) const fn follows(self) -> Self {
        Self { default: Default::Follows, ..self }
    }

    pub(super) const fn used_by(self, used_by: UsedBy) -> Self {
        Self { used_by, ..self }
    }

    pub(super) const fn ignored_elsewhere(self) -> Self {
        Self { is_ignored_elsewhere: true, ..self }
    }

    pub(super) const fn only_in(self, document: Document) -> Self {
        Self { only_in: Some(document), ..self }
    }

    pub(super) const fn null_means(self, meaning: &'static str) -> Self {
        Self { null: Some(meaning), ..self }
    }

    pub(super) const fn title(self, title: &'static str) -> Self {
        Self { title: Some(title), ..self }
    }

    pub(super) const fn rare(self) -> Self {
        Self { is_rare: true, ..self }
    }

    pub(super) const fn newer(self) -> Self {
        Self { is_newer: true, ..self }
    }

    pub(super) const fn in_requests_only(self) -> Self {
        Self { is_in_requests_only: true, ..self }
    }

    /// The default of a method that uses the field, where it does not depend on other fields.
    pub(super) fn default_for(&self, method: Method) -> Option<Literal> {
        match self.default {
            _ if !self.is_read_for(method) => None,
            Default::Is(literal) => Some(literal),
            Default::Of(of) => Some(of(method)),
            Default::Required(_) | Default::Absent | Default::Follows => None,
        }
    }

    /// Whether a document with this method may have the field.
    pub(super) fn is_read_for(&self, method: Method) -> bool {
        self.is_ignored_elsewhere || self.used_by.includes(method)
    }

    pub(super) fn is_in(&self, document: Document) -> bool {
        self.only_in.is_none_or(|only| only == document)
    }
}
