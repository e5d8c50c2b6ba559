//! What the server says about a file before it sends it.

use reqwest::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, ETAG, HeaderMap};

/// Longest name of a file that is taken from the server.
const LONGEST_NAME: usize = 200;

/// What the server says about a file.
#[derive(Debug, Clone)]
pub struct FileFacts {
    /// In hexadecimal; `None` if the server names none.
    pub sha256: Option<String>,
    /// In bytes; `None` if the server does not say.
    pub size: Option<u64>,
    /// Without a path.
    pub name: String,
}

impl FileFacts {
    /// From the head of an answer, and a name in case that has none.
    #[must_use]
    pub fn of(headers: &HeaderMap, fallback: &str) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = text(ETAG).and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
        let is_sha256 = |tag: &&str| tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = text(CONTENT_DISPOSITION).and_then(|value| value.split_once("filename=\"")?.1.split('"').next());
        Self {
            sha256: tag.filter(is_sha256).map(str::to_ascii_lowercase),
            size: text(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            name: name.and_then(safe_name).unwrap_or_else(|| fallback.to_owned()),
        }
    }
}

/// The name, if it is one of a visible file in the same directory.
#[must_use]
pub fn safe_name(name: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_safe = !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with(['.', '-']);
    (is_safe && name.chars().all(is_plain)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_the_server_only_below_the_directory() {
        assert_eq!(safe_name("resnet8-job_1.safetensors").as_deref(), Some("resnet8-job_1.safetensors"));
        for name in ["", ".", "..", ".bashrc", "-rf", "../a", "a/b", "a\\b", "a b", "ä", "a\0", &"a".repeat(201)] {
            assert_eq!(safe_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn only_a_strong_tag_of_a_hash_counts() {
        let facts = |tag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, tag.parse().expect("a value"));
            FileFacts::of(&headers, "fallback")
        };
        let hash = "ab".repeat(32);
        assert_eq!(facts(&format!("\"{hash}\"")).sha256, Some(hash.clone()));
        for tag in [format!("W/\"{hash}\""), "\"abc\"".to_owned(), hash.clone()] {
            assert_eq!(facts(&tag).sha256, None, "{tag}");
        }
        assert_eq!(facts("\"\"").name, "fallback");
    }
}
