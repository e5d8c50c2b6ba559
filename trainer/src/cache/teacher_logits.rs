//! Keeps the teacher's logits, so that the teacher sees each view of an image once.
//!
//! With `exact` there is one view, the image itself. With `views:<n>` each image is augmented in n ways that depend on
//! (seed, view, image). An epoch shows one view of all images, and n epochs show all views, in an order that is
//! shuffled for every n epochs. So the first epoch of a view computes what later ones find, and no pass is needed
//! beforehand. The cache only saves time: without it the teacher computes the same logits again. `run/cache_key.rs`
//! makes the key, which names everything that the logits depend on.

use std::path::PathBuf;

use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::Cache;
use super::rows::{RowIndices, Rows};
use crate::device::card;
use crate::error::Error;
use distillery_core::spec::TeacherCache;

/// Where logits are kept.
#[derive(Debug)]
pub enum LogitStorage {
    /// In a device's memory, for this run.
    Memory { device: Device, limit: u64 },
    /// In files, for later runs as well.
    Files {
        cache: Cache,
        /// Everything that the logits of an image depend on, except the view.
        key: Value,
        /// A copy is kept here if it is a GPU with room for it.
        device: Device,
    },
}

/// The logits of a run's teacher.
#[derive(Debug)]
pub struct TeacherLogitCache {
    views: Vec<CachedView>,
    storage: LogitStorage,
    images: usize,
    /// Regions, the whole image among them, and classes.
    size: [i64; 2],
    warnings: Vec<String>,
}

#[derive(Debug)]
enum CachedView {
    /// Not needed yet in this run.
    New,
    Open {
        rows: Rows,
        path: Option<PathBuf>,
        has_warned: bool,
    },
    /// There is no room for it, or its file failed.
    NotKept,
}

impl TeacherLogitCache {
    /// A cache for `images` images whose logits have `size` [regions, classes]; `None` if `kind` turns it off.
    #[must_use]
    pub fn new(kind: TeacherCache, images: usize, size: [i64; 2], storage: LogitStorage) -> Option<Self> {
        let views = match kind {
            TeacherCache::Off => return None,
            TeacherCache::Exact => 1,
            TeacherCache::Views(views) => views as usize,
        };
        let (limit, advice) = match &storage {
            LogitStorage::Memory { limit, .. } => (*limit, "raise --cache-mib, or name a directory with --cache-dir"),
            LogitStorage::Files { cache, .. } => (cache.limit(), "raise --cache-mib of the worker"),
        };
        let bytes = Rows::bytes(images as u64, (size[0] * size[1]) as usize);
        let fitting = usize::try_from(limit / bytes).unwrap_or(usize::MAX).min(views);
        let mut warnings = Vec::new();
        if fitting < views {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            warnings.push(format!(
                "the teacher cache has room for {fitting} of {views} views: the logits of {images} images take {} MiB \
                 per view, {} MiB in all, and the limit is {} MiB. The teacher computes the other views again in every \
                 epoch; {advice}, or use fewer scales or fewer views",
                mib(bytes),
                mib(bytes * views as u64),
                mib(limit)
            ));
        }
        let views = (0..views).map(|view| if view < fitting { CachedView::New } else { CachedView::NotKept }).collect();
        Some(Self { views, storage, images, size, warnings })
    }

    /// Warnings since the last call.
    pub fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Stores the logits [B, regions, classes] of a view of some images.
    pub fn store(&mut self, view: u32, images: RowIndices<'_>, logits: &Tensor) {
        let index = self.index(view);
        if let CachedView::Open { rows, .. } = &mut self.views[index]
            && let Err(error) = rows.put(images, &logits.flatten(1, 2))
        {
            self.give_up(index, &error.to_string());
        }
    }

    /// With `exact` all epochs show the same view.
    fn index(&self, view: u32) -> usize {
        view as usize % self.views.len()
    }

    /// The logits [B, regions, classes] of a view of some images; `None` if those of one image are missing.
    pub fn find(&mut self, view: u32, images: RowIndices<'_>) -> Option<Tensor> {
        let rows = self.rows(self.index(view), images)?;
        Some(rows.view([images.host.len() as i64, self.size[0], self.size[1]]))
    }

    /// Writes what is only on a GPU to the files: at the end of an epoch and of a run.
    pub fn flush(&mut self) {
        for index in 0..self.views.len() {
            let CachedView::Open { rows, .. } = &mut self.views[index] else { continue };
            if let Err(error) = rows.write() {
                self.give_up(index, &error.to_string());
            }
        }
    }

    fn rows(&mut self, index: usize, images: RowIndices<'_>) -> Option<Tensor> {
        if matches!(self.views[index], CachedView::New) {
            self.views[index] = self.open(index);
        }
        let CachedView::Open { rows, path, has_warned } = &mut self.views[index] else { return None };
        match rows.get(images) {
            Ok(found) => {
                if rows.damaged() > 0 && !*has_warned {
                    *has_warned = true;
                    self.warnings.push(format!(
                        "the teacher cache {} was damaged: the teacher computes the damaged logits again",
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

    fn open(&mut self, index: usize) -> CachedView {
        match self.open_rows(index) {
            Ok(Opened { rows, path, was_replaced }) => {
                if let (true, Some(path)) = (was_replaced, &path) {
                    self.warnings.push(format!(
                        "the teacher cache {} was damaged and has been replaced: the teacher sees all images again",
                        path.display()
                    ));
                }
                CachedView::Open { rows, path, has_warned: was_replaced }
            }
            Err(error) => {
                self.give_up(index, &error);
                CachedView::NotKept
            }
        }
    }

    fn open_rows(&self, index: usize) -> Result<Opened, String> {
        let width = (self.size[0] * self.size[1]) as usize;
        match &self.storage {
            LogitStorage::Memory { device, .. } => {
                let rows = Rows::in_memory(self.images, width, *device).map_err(|error| Error::from(error).message)?;
                Ok(Opened { rows, path: None, was_replaced: false })
            }
            LogitStorage::Files { cache, key, device } => {
                let key = json!({"logits": key, "view": index}).to_string();
                let path = cache.path("teacher", &key);
                let (rows, was_replaced) =
                    Rows::in_file(cache, &path, &key, self.images as u64, width).map_err(|error| error.to_string())?;
                // Half of the free memory is left for training.
                let fits = |free: u64| Rows::bytes(self.images as u64, width) < free / 2;
                let has_room = card::memory(*device).is_some_and(|memory| fits(memory.free));
                let rows = if has_room { rows.on_device(self.images, *device) } else { Ok(rows) };
                Ok(Opened { rows: rows.map_err(|error| error.message)?, path: Some(path), was_replaced })
            }
        }
    }

    fn give_up(&mut self, index: usize, why: &str) {
        self.views[index] = CachedView::NotKept;
        self.warnings.push(format!(
            "the teacher's logits cannot be cached ({why}): the teacher computes them in every epoch, which only \
             takes time"
        ));
    }
}

struct Opened {
    rows: Rows,
    /// `None` in memory.
    path: Option<PathBuf>,
    /// Whether a damaged file was replaced.
    was_replaced: bool,
}
