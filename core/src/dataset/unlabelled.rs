//! Images without labels, which a student learns from the teacher alone.

use super::{BLOCK, Dataset, Error, Frame, Images, splits};

/// In the place of the class of an image without one. Every class is less.
pub const UNLABELLED: u32 = u32::MAX;

impl Dataset {
    /// The splits whose images have no labels, sorted by name.
    #[must_use]
    pub fn unlabelled_splits(&self) -> Vec<String> {
        self.layout.unlabelled_splits()
    }

    /// The split of that name, with labels or without.
    ///
    /// # Errors
    /// There is no such split, or it cannot be used.
    pub(super) fn any_split(&self, wanted: &str) -> Result<String, Error> {
        let unlabelled = self.layout.unlabelled_splits();
        match splits::find(&unlabelled, wanted) {
            Some(found) => Ok(found.to_owned()),
            None => self.choose(Some(wanted), &[]),
        }
    }

    /// Opens the images of a split without their labels, if they have any. It must be a name of
    /// [`Selection`](super::Selection).
    ///
    /// # Errors
    /// There is no such split, it is empty, or its files are damaged.
    pub fn without_labels(&self, split: &str) -> Result<Box<dyn Images>, Error> {
        let images = match self.layout.open_unlabelled(split) {
            Some(images) => images,
            None => self.split(split)?,
        };
        let labels = vec![UNLABELLED; images.len()];
        if labels.is_empty() {
            return Err(Error::invalid(&self.path, format!("the {split} split is empty: it needs at least one image")));
        }
        Ok(Box::new(WithoutLabels { images, labels }))
    }
}

/// Images whose labels are not used.
#[derive(Debug)]
struct WithoutLabels {
    images: Box<dyn Images>,
    labels: Vec<u32>,
}

impl Images for WithoutLabels {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        self.images.read(index, frame, side, planes)
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.images.stored(index, take)
    }

    fn read_stored(
        &self,
        index: usize,
        frame: &Frame<'_>,
        into: (u32, &mut [u8]),
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        self.images.read_stored(index, frame, into, take)
    }

    fn position(&self, index: usize) -> usize {
        self.images.position(index)
    }

    fn turned(&self) -> u64 {
        self.images.turned()
    }

    fn packed_bytes(&self) -> u64 {
        self.images.packed_bytes()
    }

    fn keep(&self, bytes: u64) {
        self.images.keep(bytes);
    }

    fn fetch(&self, index: usize) {
        self.images.fetch(index);
    }
}

/// The images of two splits, one after the other.
#[derive(Debug)]
pub struct Joined {
    first: Box<dyn Images>,
    second: Box<dyn Images>,
    labels: Vec<u32>,
}

impl Joined {
    #[must_use]
    pub fn new(first: Box<dyn Images>, second: Box<dyn Images>) -> Self {
        let labels = [first.labels(), second.labels()].concat();
        Self { first, second, labels }
    }

    /// The split of an image, and its place there.
    fn of(&self, index: usize) -> (&dyn Images, usize) {
        match index.checked_sub(self.first.len()) {
            None => (&*self.first, index),
            Some(index) => (&*self.second, index),
        }
    }
}

impl Images for Joined {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        let (images, index) = self.of(index);
        images.read(index, frame, side, planes)
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        let (images, index) = self.of(index);
        images.stored(index, take)
    }

    /// Of the second split, behind all of the first.
    fn position(&self, index: usize) -> usize {
        let (images, place) = self.of(index);
        let before = if index < self.first.len() { 0 } else { self.first.len() };
        before + images.position(place)
    }

    fn turned(&self) -> u64 {
        self.first.turned() + self.second.turned()
    }

    fn packed_bytes(&self) -> u64 {
        self.first.packed_bytes() + self.second.packed_bytes()
    }

    fn keep(&self, bytes: u64) {
        // By their shares of what is packed.
        let [first, second] = [self.first.packed_bytes(), self.second.packed_bytes()];
        let of_first = u128::from(bytes) * u128::from(first) / u128::from((first + second).max(1));
        let of_first = u64::try_from(of_first).unwrap_or(bytes);
        self.first.keep(of_first);
        self.second.keep(bytes - of_first);
    }

    fn fetch(&self, index: usize) {
        // A block of these images may have some of both.
        let last = (index - index % BLOCK + BLOCK - 1).min(self.labels.len().saturating_sub(1));
        for index in [index - index % BLOCK, last] {
            let (images, index) = self.of(index);
            images.fetch(index);
        }
    }
}
