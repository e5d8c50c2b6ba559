//! The teacher sees each view of an image once: its logits are kept, and come again when the view does.
//!
//! `exact` has one view, the image itself. With `views:<n>` each image is augmented in n ways, which (seed, view, image)
//! decides. An epoch shows one view of all images, and n epochs show all of them, in an order that is drawn anew for
//! every n. So a view's first epoch computes what later ones find, and no pass is needed beforehand. What is kept decides
//! about time only: without it the teacher computes the same again.

use std::path::PathBuf;

use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::Cache;
use super::rows::{Numbers, Rows};
use crate::device::cuda;
use crate::error::{Error, Result};
use distillery::spec::TeacherCache as Kind;

/// Where logits are kept.
#[derive(Debug)]
pub enum Place {
    /// In the memory of that device, up to so many bytes, for this run.
    Memory(Device, u64),
    /// In files, for later runs as well, and in the memory of that device where it is a GPU with room. The value is all that
    /// the logits of an image depend on, but for the view.
    Files(Cache, Value, Device),
}

/// The logits of a run's teacher.
#[derive(Debug)]
pub struct TeacherCache {
    views: Vec<View>,
    place: Place,
    images: usize,
    /// Regions, the whole image among them, and classes.
    size: [i64; 2],
    warnings: Vec<String>,
}

#[derive(Debug)]
enum View {
    /// Not met yet in this run.
    New,
    Kept {
        rows: Rows,
        path: Option<PathBuf>,
        told: bool,
    },
    /// There is no room for it, or its file fails.
    Forgotten,
}

impl TeacherCache {
    /// For `images` images whose logits have `size` [regions, classes]; none where nothing is to be kept.
    #[must_use]
    pub fn new(kind: Kind, images: usize, size: [i64; 2], place: Place) -> Option<Self> {
        let views = match kind {
            Kind::Off => return None,
            Kind::Exact => 1,
            Kind::Views(views) => views as usize,
        };
        let (limit, advice) = match &place {
            Place::Memory(_, limit) => (*limit, "raise --cache-mib, or name a directory with --cache-dir"),
            Place::Files(cache, ..) => (cache.limit(), "raise --cache-mib of the worker"),
        };
        let width = (size[0] * size[1]) as usize;
        let bytes = Rows::bytes(images as u64, width);
        let fitting = usize::try_from(limit / bytes).unwrap_or(usize::MAX).min(views);
        let mut warnings = Vec::new();
        if fitting < views {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let all = mib(bytes * views as u64);
            warnings.push(format!(
                "the teacher cache has room for {fitting} of {views} views: the logits of {images} images take {} MiB a \
                 view, {all} MiB altogether, and {} MiB are allowed. The teacher sees the others in every epoch; {advice}, \
                 choose fewer scales, or fewer views",
                mib(bytes),
                mib(limit)
            ));
        }
        let views = (0..views).map(|view| if view < fitting { View::New } else { View::Forgotten }).collect();
        Some(Self { views, place, images, size, warnings })
    }

    /// What there is to say since the last call.
    pub fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Keeps the logits [B, regions, classes] of a view of those images.
    pub fn keep(&mut self, view: u32, images: Numbers<'_>, logits: &Tensor) {
        let index = self.index(view);
        if let View::Kept { rows, .. } = &mut self.views[index]
            && let Err(error) = rows.put(images, &logits.flatten(1, 2))
        {
            self.give_up(index, &error.to_string());
        }
    }

    /// With `exact` there is one, whatever the epoch.
    fn index(&self, view: u32) -> usize {
        view as usize % self.views.len()
    }

    /// The logits [B, regions, classes] of a view of those images; none where one of them is not kept.
    pub fn find(&mut self, view: u32, images: Numbers<'_>) -> Option<Tensor> {
        let rows = self.rows(self.index(view), images)?;
        Some(rows.view([images.numbers.len() as i64, self.size[0], self.size[1]]))
    }

    /// Brings what is kept on a GPU to the files: at the end of an epoch, and of a run.
    pub fn write(&mut self) {
        for index in 0..self.views.len() {
            let View::Kept { rows, .. } = &mut self.views[index] else { continue };
            if let Err(error) = rows.write() {
                self.give_up(index, &error.to_string());
            }
        }
    }

    fn rows(&mut self, index: usize, images: Numbers<'_>) -> Option<Tensor> {
        if matches!(self.views[index], View::New) {
            self.views[index] = self.open(index);
        }
        let View::Kept { rows, path, told } = &mut self.views[index] else { return None };
        match rows.get(images) {
            Ok(found) => {
                if rows.damaged() > 0 && !*told {
                    *told = true;
                    self.warnings.push(format!(
                        "the teacher cache {} was damaged: the logits of those images are computed anew",
                        path.as_deref().unwrap_or("in memory".as_ref()).display()
                    ));
                }
                found
            }
            Err(error) => {
                self.give_up(index, &error.to_string());
                None
            }
        }
    }

    fn open(&mut self, index: usize) -> View {
        let width = (self.size[0] * self.size[1]) as usize;
        let opened = match &self.place {
            Place::Memory(device, _) => {
                let rows = Rows::in_memory(self.images, width, *device);
                rows.map(|rows| (rows, None, false)).map_err(|error| Error::from(error).message)
            }
            Place::Files(cache, key, device) => {
                let key = json!({"logits": key, "view": index}).to_string();
                let path = cache.path("teacher", &key);
                let opened =
                    Rows::in_file(cache, &path, &key, self.images as u64, width).map_err(|error| error.to_string());
                // Half of what is free is left for the steps.
                let is_room = |free| Rows::bytes(self.images as u64, width) < free / 2;
                let has_room = cuda::free_bytes(*device).is_some_and(is_room);
                opened.and_then(|(rows, replaced)| {
                    let rows = if has_room { rows.on_device(self.images, *device) } else { Ok(rows) };
                    Ok((rows.map_err(|error| error.message)?, Some(path), replaced))
                })
            }
        };
        match opened {
            Ok((rows, path, replaced)) => {
                if let (true, Some(path)) = (replaced, &path) {
                    self.warnings.push(format!(
                        "the teacher cache {} was damaged and is made anew: the teacher sees all images again",
                        path.display()
                    ));
                }
                View::Kept { rows, path, told: replaced }
            }
            Err(error) => {
                self.give_up(index, &error);
                View::Forgotten
            }
        }
    }

    fn give_up(&mut self, index: usize, why: &str) {
        self.views[index] = View::Forgotten;
        self.warnings.push(format!(
            "the teacher's logits cannot be kept ({why}): the teacher sees the images in every epoch, which costs time only"
        ));
    }
}
