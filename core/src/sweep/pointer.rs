//! JSON pointers (RFC 6901) that set a value, and create the objects on the way to it.

use serde_json::{Map, Value};

use crate::text::quoted;

/// The names of a pointer, without escapes. `None` if the text is no pointer into an object.
#[must_use]
pub fn tokens(pointer: &str) -> Option<Vec<String>> {
    let path = pointer.strip_prefix('/')?;
    let is_escaped = |token: &str| token.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    let tokens: Vec<&str> = path.split('/').collect();
    let is_valid = tokens.iter().all(|token| !token.is_empty() && is_escaped(token));
    is_valid.then(|| tokens.into_iter().map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

/// The text as one name of a pointer.
#[must_use]
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Whether a pointer names a value or something inside it.
pub(super) fn is_within(pointer: &str, outer: &str) -> bool {
    pointer.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Sets a value. Creates missing objects.
///
/// # Errors
/// Why the pointer names nothing that could be set.
pub(super) fn set(document: &mut Value, pointer: &str, value: Value) -> Result<(), String> {
    let mut place = document;
    let mut path = String::new();
    for name in tokens(pointer).ok_or("is no JSON pointer")? {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = match place {
            Value::Object(members) => members.entry(name.clone()).or_insert(Value::Null),
            Value::Array(elements) => {
                let count = elements.len();
                let index = name.parse::<usize>().ok().filter(|index| *index < count);
                let index = index.ok_or_else(|| {
                    format!(
                        "the base has {count} elements at {path}, and no {name}",
                        path = quoted(&path),
                        name = quoted(&name)
                    )
                })?;
                &mut elements[index]
            }
            _ => return Err(format!("the base has neither an object nor a list at {path}", path = quoted(&path))),
        };
        path = format!("{path}/{}", escaped(&name));
    }
    *place = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_set_where_its_pointer_leads_and_nowhere_else() {
        let mut document = json!({"a": {"b": [1, 2]}, "s": "text"});
        for (pointer, value) in [("/a/b/1", json!(3)), ("/c/d", json!({})), ("/a~1b/m~0n", json!(null))] {
            set(&mut document, pointer, value).unwrap();
        }
        assert_eq!(document, json!({"a": {"b": [1, 3]}, "s": "text", "c": {"d": {}}, "a/b": {"m~n": null}}));
        let before = document.clone();
        for wrong in ["/a/b/2", "/a/b/x", "/s/t", "a", "", "/", "/a//b", "/a~2"] {
            assert!(set(&mut document, wrong, json!(1)).is_err(), "{wrong}");
            assert_eq!(document, before, "{wrong}");
        }
    }

    #[test]
    fn a_pointer_is_within_another_by_whole_names() {
        assert!(is_within("/a", "/a") && is_within("/a/b", "/a"));
        assert!(!is_within("/ab", "/a") && !is_within("/a", "/a/b"));
    }
}
