//! Where stored jobs have the fields of the [table](super::fields).

use super::field::{Document, Kind, Object};
use super::fields;
use crate::text::nearest;

/// A field's place.
struct FieldPlace {
    /// JSON pointer into the specification.
    pointer: String,
    /// Whether the table has no fields below it.
    is_leaf: bool,
}

/// Whether this JSON pointer leads to a field of the table, or into the value of one.
#[must_use]
pub fn has_setting(pointer: &str) -> bool {
    places().iter().any(|place| match pointer.strip_prefix(place.pointer.as_str()) {
        Some("") => true,
        Some(rest) => place.is_leaf && rest.starts_with('/'),
        None => false,
    })
}

/// The field that was probably meant by a JSON pointer that the table does not have: one with a similar pointer, or one
/// of the same name elsewhere.
#[must_use]
pub fn setting_meant(pointer: &str) -> Option<String> {
    let places = places();
    let similar = nearest(pointer, places.iter().map(|place| place.pointer.as_str())).map(str::to_owned);
    let name = |pointer: &str| pointer.rsplit('/').next().unwrap_or_default().to_lowercase();
    let namesake = || places.iter().find(|place| name(&place.pointer) == name(pointer));
    similar.or_else(|| namesake().map(|place| place.pointer.clone()))
}

fn places() -> Vec<FieldPlace> {
    let mut places = Vec::new();
    add(&mut places, "", &fields::JOB);
    places
}

fn add(places: &mut Vec<FieldPlace>, at: &str, table: &Object) {
    let rows = table.fields.iter().filter(|field| field.is_in(Document::Job) && !field.is_in_requests_only);
    for field in rows {
        let pointer = format!("{at}/{}", field.name);
        match &field.kind {
            Kind::Object(nested) => {
                places.push(FieldPlace { pointer: pointer.clone(), is_leaf: false });
                add(places, &pointer, nested);
            }
            Kind::Variants { variants, .. } => {
                places.push(FieldPlace { pointer: pointer.clone(), is_leaf: false });
                places.push(FieldPlace { pointer: format!("{pointer}/type"), is_leaf: true });
                variants.iter().for_each(|variant| add(places, &pointer, variant));
            }
            _ => places.push(FieldPlace { pointer, is_leaf: true }),
        }
    }
}
