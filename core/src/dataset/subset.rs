//! Parts of a split that have its classes in its proportions, and are the same for every seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::{BLOCK, Error, Frame, Images};

/// Some images of a split.
#[derive(Debug)]
pub struct Subset {
    images: Box<dyn Images>,
    /// Ascending.
    positions: Vec<usize>,
    labels: Vec<u32>,
}

impl Subset {
    /// The images at `positions`, which ascend.
    ///
    /// # Panics
    /// There is no such image.
    #[must_use]
    pub fn new(images: Box<dyn Images>, positions: Vec<usize>) -> Self {
        let labels = positions.iter().map(|&position| images.labels()[position]).collect();
        Self { images, positions, labels }
    }
}

impl Images for Subset {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        self.images.read(self.positions[index], frame, side, planes)
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.images.stored(self.positions[index], take)
    }

    fn position(&self, index: usize) -> usize {
        self.images.position(self.positions[index])
    }

    fn turned(&self) -> u64 {
        self.images.turned()
    }

    fn packed_bytes(&self) -> u64 {
        // A block of this subset is spread over several blocks of the split, all of which are unpacked.
        self.images.packed_bytes()
    }

    fn keep(&self, bytes: u64) {
        self.images.keep(bytes);
    }

    fn fetch(&self, index: usize) {
        let start = index - index % BLOCK;
        let mut last = None;
        for &position in &self.positions[start..self.positions.len().min(start + BLOCK)] {
            if last.replace(position / BLOCK) != Some(position / BLOCK) {
                self.images.fetch(position);
            }
        }
    }
}

/// Positions of `wanted` images. Each class has its share of them, and at least one image where there are enough for
/// all classes; within a class they are evenly spaced. Ascending.
#[must_use]
pub fn spread(labels: &[u32], wanted: usize) -> Vec<usize> {
    if wanted >= labels.len() {
        return (0..labels.len()).collect();
    }
    let classes: Vec<Vec<usize>> = by_class(labels).into_values().collect();
    let counts: Vec<usize> = classes.iter().map(Vec::len).collect();
    let chosen = classes.iter().zip(shares(&counts, wanted));
    let mut positions: Vec<usize> = chosen
        .flat_map(|(images, share)| (0..share).map(move |number| images[number * images.len() / share]))
        .collect();
    positions.sort_unstable();
    positions
}

/// Positions of at most `most` images of each class, which are evenly spaced. Ascending.
#[must_use]
pub fn cap(labels: &[u32], most: usize) -> Vec<usize> {
    let evenly = |images: Vec<usize>| {
        let share = images.len().min(most);
        (0..share).map(move |number| images[number * images.len() / share]).collect::<Vec<_>>()
    };
    let mut positions: Vec<usize> = by_class(labels).into_values().flat_map(evenly).collect();
    positions.sort_unstable();
    positions
}

/// Splits off that fraction of each class: at least one image of it and never all. Returns the positions of the images
/// that remain and of those that are held out, both ascending.
#[must_use]
pub fn hold_out(labels: &[u32], fraction: f64) -> (Vec<usize>, Vec<usize>) {
    let (mut kept, mut held_out) = (Vec::new(), Vec::new());
    for images in by_class(labels).values() {
        let most = images.len() - 1;
        let share = ((images.len() as f64 * fraction).round() as usize).clamp(most.min(1), most);
        // From the middle of each of `share` equal parts.
        let mut next = (0..share).map(|number| (2 * number + 1) * images.len() / (2 * share)).peekable();
        for (number, &image) in images.iter().enumerate() {
            if next.next_if_eq(&number).is_some() { held_out.push(image) } else { kept.push(image) }
        }
    }
    kept.sort_unstable();
    held_out.sort_unstable();
    (kept, held_out)
}

pub(super) fn by_class(labels: &[u32]) -> BTreeMap<u32, Vec<usize>> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (position, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(position);
    }
    classes
}

/// Divides `wanted` in proportion to `counts`, by largest remainders; then classes without a share get one of the
/// largest's.
fn shares(counts: &[usize], wanted: usize) -> Vec<usize> {
    let total: u128 = counts.iter().map(|&count| count as u128).sum();
    let exact = |class: usize| counts[class] as u128 * wanted as u128;
    let mut shares: Vec<usize> = (0..counts.len()).map(|class| (exact(class) / total) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..counts.len()).collect();
    by_remainder.sort_by_key(|&class| Reverse(exact(class) % total));
    let left = wanted - shares.iter().sum::<usize>();
    by_remainder.iter().take(left).for_each(|&class| shares[class] += 1);
    if wanted >= counts.len() {
        let mut largest: BinaryHeap<(usize, Reverse<usize>)> =
            shares.iter().enumerate().map(|(class, &share)| (share, Reverse(class))).collect();
        for class in 0..counts.len() {
            if shares[class] == 0
                && let Some((share, Reverse(giver))) = largest.pop()
            {
                shares[giver] -= 1;
                shares[class] = 1;
                largest.push((share - 1, Reverse(giver)));
            }
        }
    }
    shares
}
