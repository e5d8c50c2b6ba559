//! What the files of an attempt are called where its users read about them. A trainer knows them by their paths on its
//! machine, which tell a user nothing and are gone after the attempt.

use std::path::Path;

/// Paths that a trainer is given, and what stands for them in a job's history and in its manifest.
#[derive(Debug, Default)]
pub(super) struct FileNames(Vec<FileName>);

#[derive(Debug)]
struct FileName {
    path: String,
    /// In messages.
    name: String,
    /// In documents: what the job's specification has for the file.
    reference: String,
}

impl FileNames {
    pub(super) fn add(&mut self, path: &Path, name: &str) {
        self.add_with_reference(path, name, name);
    }

    /// Adds a file that documents call otherwise than messages do.
    pub(super) fn add_with_reference(&mut self, path: &Path, name: &str, reference: &str) {
        let canonical = path.canonicalize().ok();
        for path in std::iter::once(path).chain(canonical.as_deref()).filter_map(Path::to_str) {
            if !self.0.iter().any(|known| known.path == path) {
                let [path, name, reference] = [path, name, reference].map(str::to_owned);
                self.0.push(FileName { path, name, reference });
            }
        }
        // A path that begins with another one comes before it.
        self.0.sort_by_key(|known| std::cmp::Reverse(known.path.len()));
    }

    /// A message with the names in place of the paths. What is below a directory keeps its path from there.
    pub(super) fn in_place_of_paths(&self, message: String) -> String {
        self.0.iter().fold(message, |message, known| replaced(&message, &known.path, &known.name))
    }

    /// A JSON document in which the strings that are one of the paths are what the specification has for it. Everything
    /// else stays as it is, to the byte.
    pub(super) fn in_place_of_strings(&self, document: String) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        self.0
            .iter()
            .fold(document, |document, known| document.replace(&quoted(&known.path), &quoted(&known.reference)))
    }
}

fn replaced(message: &str, path: &str, name: &str) -> String {
    let mut made = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(path) {
        let (before, found) = rest.split_at(at);
        let after = &found[path.len()..];
        // Another file, whose name begins like this one.
        let goes_on = after.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '-' | '_'));
        made.push_str(before);
        made.push_str(if goes_on { path } else { name });
        rest = after;
    }
    made.push_str(rest);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names_and_those_of_other_files_stay() {
        let mut names = FileNames::default();
        for (path, name) in [
            ("/attempts/1/teacher", "teacher.pth (ckpt_1)"),
            ("/attempts/1/teacher-network", "ckpt_2"),
            ("/data/flowers", "flowers"),
        ] {
            names.add(Path::new(path), name);
        }
        for (said, expected) in [
            ("checkpoint /attempts/1/teacher has 9 tensors", "checkpoint teacher.pth (ckpt_1) has 9 tensors"),
            ("/attempts/1/teacher-network: a (/attempts/1/teacher)", "ckpt_2: a (teacher.pth (ckpt_1))"),
            ("/data/flowers/train/a.jpg is damaged", "flowers/train/a.jpg is damaged"),
            ("/data/flowers-2, /data/flowers.", "/data/flowers-2, flowers."),
            ("/attempts/1/teachers", "/attempts/1/teachers"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(names.in_place_of_paths(said.to_owned()), expected);
        }
    }

    #[test]
    fn only_strings_of_a_document_that_are_paths_become_references() {
        let mut names = FileNames::default();
        names.add_with_reference(Path::new("/a \"b\"/teacher"), "teacher.pth (ckpt_1)", "ckpt_1");
        names.add(Path::new("/data/flowers"), "flowers");
        let document = r#"{"teacher": "/a \"b\"/teacher", "data": "/data/flowers", "note": "/data/flowers/1"}"#;
        let expected = r#"{"teacher": "ckpt_1", "data": "flowers", "note": "/data/flowers/1"}"#;
        assert_eq!(names.in_place_of_strings(document.to_owned()), expected);
    }
}
