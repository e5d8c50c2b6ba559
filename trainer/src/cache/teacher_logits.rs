//! Keeps the teacher's logits, so that the teacher sees each view of an image once.
//!
//! With `exact` there is one view, the image itself. With `views:<n>` each image is augmented in n ways that depend on
//! (seed, view, image). An epoch shows one view of all images, and n epochs show all views, in an order that is
//! shuffled for every n epochs. So the first epoch of a view computes what later ones find, and no pass is needed
//! beforehand. The cache only saves time: without it the teacher computes the same logits again. `run/cache_key.rs`
//! makes the key, which names everything that the logits depend on.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::rows::{RowIndices, Rows};
use super::{Cache, remove};
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
        /// What is kept if the disk is too full for all scales.
        own: Option<OwnScales>,
    },
}

/// The scales that a run takes itself, where it keeps others as well for other runs.
#[derive(Debug)]
pub struct OwnScales {
    /// Everything that the logits at these scales depend on, except the view.
    pub key: Value,
    /// The places of their regions among those of all kept scales.
    pub regions: Vec<i64>,
}

/// The logits of a run's teacher.
#[derive(Debug)]
pub struct TeacherLogitCache {
    views: Vec<CachedView>,
    storage: LogitStorage,
    images: usize,
    /// Regions, the whole image among them, and classes.
    size: [i64; 2],
    /// Whether views that are opened from now on have the run's own scales alone.
    is_narrow: bool,
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
        /// The places of its regions among those of all kept scales, if it has some of them alone.
        regions: Option<Tensor>,
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
        Some(Self { views, storage, images, size, is_narrow: false, warnings })
    }

    /// Warnings since the last call.
    pub fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Stores the logits [B, regions, classes] of a view of some images.
    pub fn store(&mut self, view: u32, images: RowIndices<'_>, logits: &Tensor) {
        let index = self.index(view);
        let CachedView::Open { rows, regions, .. } = &mut self.views[index] else { return };
        let own = regions.as_ref().map(|regions| logits.index_select(1, &regions.to_device(logits.device())));
        if let Err(error) = rows.put(images, &own.as_ref().unwrap_or(logits).flatten(1, 2)) {
            self.failed(index, &error);
        }
    }

    /// With `exact` all epochs show the same view.
    fn index(&self, view: u32) -> usize {
        view as usize % self.views.len()
    }

    /// The logits [B, regions, classes] of a view of some images; `None` if those of one image are missing. Regions
    /// that the run does not take may be zero.
    pub fn find(&mut self, view: u32, images: RowIndices<'_>) -> Option<Tensor> {
        let index = self.index(view);
        let rows = self.rows(index, images)?;
        let [all, classes] = self.size;
        let rows = rows.view([images.host.len() as i64, -1, classes]);
        let CachedView::Open { regions: Some(regions), .. } = &self.views[index] else { return Some(rows) };
        let empty = Tensor::zeros([images.host.len() as i64, all, classes], (rows.kind(), rows.device()));
        Some(empty.index_copy(1, &regions.to_device(rows.device()), &rows))
    }

    /// Writes what is only on a GPU to the files: at the end of an epoch and of a run.
    pub fn flush(&mut self) {
        for index in 0..self.views.len() {
            let CachedView::Open { rows, .. } = &mut self.views[index] else { continue };
            if let Err(error) = rows.write() {
                self.failed(index, &error);
            }
        }
    }

    fn rows(&mut self, index: usize, images: RowIndices<'_>) -> Option<Tensor> {
        if matches!(self.views[index], CachedView::New) {
            self.open(index);
        }
        let CachedView::Open { rows, path, has_warned, .. } = &mut self.views[index] else { return None };
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
                self.failed(index, &error);
                None
            }
        }
    }

    fn open(&mut self, index: usize) {
        match self.open_rows(index) {
            Ok(Opened { rows, path, was_replaced, regions }) => {
                if let (true, Some(path)) = (was_replaced, &path) {
                    self.warnings.push(format!(
                        "the teacher cache {} was damaged and has been replaced: the teacher sees all images again",
                        path.display()
                    ));
                }
                let regions = regions.map(|regions| Tensor::from_slice(&regions));
                self.views[index] = CachedView::Open { rows, path, has_warned: was_replaced, regions };
            }
            Err(error) => self.failed(index, &error),
        }
    }

    fn open_rows(&self, index: usize) -> io::Result<Opened> {
        let [all, classes] = self.size;
        match &self.storage {
            LogitStorage::Memory { device, .. } => {
                let rows = Rows::in_memory(self.images, (all * classes) as usize, *device);
                let rows = rows.map_err(|error| io::Error::other(Error::from(error).message))?;
                Ok(Opened { rows, path: None, was_replaced: false, regions: None })
            }
            LogitStorage::Files { cache, key, device, own } => {
                let own = own.as_ref().filter(|_| self.is_narrow);
                let regions = own.map(|own| own.regions.clone());
                let width = (regions.as_ref().map_or(all, |regions| regions.len() as i64) * classes) as usize;
                let key = json!({"logits": own.map_or(key, |own| &own.key), "view": index}).to_string();
                let path = cache.path("teacher", &key);
                let (rows, was_replaced) = Rows::in_file(cache, &path, &key, self.images as u64, width)?;
                // Half of the free memory is left for training.
                let fits = |free: u64| Rows::bytes(self.images as u64, width) < free / 2;
                let has_room = card::memory(*device).is_some_and(|memory| fits(memory.free));
                let rows = if has_room { rows.on_device(self.images, *device) } else { Ok(rows) };
                let rows = rows.map_err(|error| io::Error::other(error.message))?;
                Ok(Opened { rows, path: Some(path), was_replaced, regions })
            }
        }
    }

    /// Keeps only the run's own scales if the disk is too full for others; otherwise gives the view up.
    fn failed(&mut self, index: usize, error: &io::Error) {
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let path = match std::mem::replace(&mut self.views[index], CachedView::NotKept) {
            CachedView::Open { path, regions: None, .. } => path,
            CachedView::Open { .. } => return self.give_up(index, &error.to_string()),
            CachedView::New | CachedView::NotKept => None,
        };
        let has_others = matches!(&self.storage, LogitStorage::Files { own: Some(_), .. });
        // A view that could not be opened was to be a narrow one if others were before.
        if !is_full || !has_others || (path.is_none() && self.is_narrow) {
            return self.give_up(index, &error.to_string());
        }
        // What there is of it is in the way. Who else has it open keeps it.
        let removed = path.map_or(Ok(()), |path| remove(&path));
        self.is_narrow = true;
        self.warnings.push(format!(
            "the disk of the teacher cache is too full for the scales that other jobs take ({error}): only the logits \
             of this job's scales are kept, and the teacher computes those that are lost again"
        ));
        match removed {
            Ok(()) => self.open(index),
            Err(error) => self.give_up(index, &error.to_string()),
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
    /// The places of its regions among those of all kept scales, if it has some of them alone.
    regions: Option<Vec<i64>>,
}
