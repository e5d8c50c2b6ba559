//! The images in and below a directory, in the order of torchvision's `ImageFolder`.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::Error;
use super::super::links::{self, EntryKind, Links};

/// Endings of images, for messages.
pub(super) const ENDINGS: &str = "*.png, *.jpg, *.jpeg, *.webp, *.bmp, *.tif, *.tiff, *.ppm, *.pgm, *.pbm";
/// Deepest directory below a class.
const DEEPEST: usize = 32;
/// What file managers leave behind.
const DEBRIS: [&str; 2] = ["Thumbs.db", "desktop.ini"];

/// What lies in and below a directory.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Relative paths, sorted by directory and then by name.
    pub images: Vec<Box<str>>,
    /// Names of other files.
    pub others: Vec<String>,
    /// What was passed over.
    pub notes: Vec<String>,
}

/// Finds the images in and below a directory.
pub(super) fn walk(directory: &Path, links: &Links) -> Result<Walked, Error> {
    let mut walk = Walk { links, root: directory, found: Vec::new(), others: Vec::new(), notes: Vec::new() };
    let canonical = fs::canonicalize(directory).map_err(Error::io(directory))?;
    walk.visit(directory, "", &mut vec![canonical])?;
    let Walk { mut found, others, notes, .. } = walk;
    found.sort();
    let path = |(directory, name): (String, String)| match directory.as_str() {
        "" => name.into_boxed_str(),
        _ => format!("{directory}/{name}").into_boxed_str(),
    };
    Ok(Walked { images: found.into_iter().map(path).collect(), others, notes })
}

pub(in super::super) fn is_image(name: &str) -> bool {
    let known = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "pbm"];
    links::extension(name).is_some_and(|extension| known.contains(&extension.as_str()))
}

struct Walk<'a> {
    links: &'a Links,
    root: &'a Path,
    /// Relative directories and names.
    found: Vec<(String, String)>,
    others: Vec<String>,
    notes: Vec<String>,
}

impl Walk<'_> {
    /// `chain` are the canonical paths from the first directory to this one.
    fn visit(&mut self, directory: &Path, relative: &str, chain: &mut Vec<PathBuf>) -> Result<(), Error> {
        if chain.len() > DEEPEST {
            return Err(Error::invalid(directory, format!("is nested more than {DEEPEST} deep: move its images up")));
        }
        for entry in links::entries(directory)? {
            // Other files may have any name, and be links to anywhere.
            if !is_image(&entry.name) && !entry.path.is_dir() {
                if !DEBRIS.contains(&entry.name.as_str()) {
                    self.others.push(entry.name);
                }
                continue;
            }
            let canonical = match self.links.kind(&entry)? {
                EntryKind::File => {
                    self.found.push((relative.to_owned(), entry.name));
                    continue;
                }
                EntryKind::Directory => chain.last().expect("the chain begins with the root").join(&entry.name),
                EntryKind::LinkedDirectory(target) => {
                    if chain.iter().any(|ancestor| ancestor.starts_with(&target)) {
                        let path = entry.path.strip_prefix(self.root.parent().unwrap_or(self.root));
                        let path = path.unwrap_or(&entry.path).display();
                        self.notes.push(format!("the link {path} is not followed: it leads to a directory around it"));
                        continue;
                    }
                    target
                }
                EntryKind::Other => continue,
            };
            let below = if relative.is_empty() { entry.name } else { format!("{relative}/{}", entry.name) };
            chain.push(canonical);
            self.visit(&entry.path, &below, chain)?;
            chain.pop();
        }
        Ok(())
    }
}
