//! Finds equal images by their hashes. The memory is 28 bytes per image, and 20 examples per pair of splits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Duplicates;
use crate::dataset::UNLABELLED;

/// Most examples of a finding that are kept.
pub(super) const EXAMPLES: usize = 20;

/// The first half of a SHA-256.
pub(super) type ImageHash = [u8; 16];

/// An image of a split, and the hash of its pixels or of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HashedImage {
    // First, because images are sorted by it.
    pub hash: ImageHash,
    /// Number of the split, in the order in which an image counts as the first of its copies.
    pub split: u32,
    pub position: u32,
    pub label: u32,
}

impl HashedImage {
    fn place(&self) -> [u32; 2] {
        [self.split, self.position]
    }
}

/// Images of one split that another split, or the same one, has earlier.
#[derive(Debug, Default)]
struct Pair {
    images: u64,
    contradictory: u64,
    /// The lowest positions.
    examples: BTreeSet<[u64; 2]>,
}

/// The images that are the same as earlier ones, by their pixels or by their bytes. `splits` are the names by number.
pub(super) fn find(mut pixels: Vec<HashedImage>, mut stored: Vec<HashedImage>, splits: &[&str]) -> Vec<Duplicates> {
    pixels.sort_unstable();
    stored.sort_unstable();
    let mut by_pixels: HashMap<[u32; 2], [HashedImage; 2]> =
        copies(&pixels).map(|pair| (pair[0].place(), pair)).collect();
    let mut pairs: BTreeMap<[u32; 2], Pair> = BTreeMap::new();
    for [image, first] in copies(&stored) {
        // An image counts once, as a copy of the earliest.
        let earlier = by_pixels.remove(&image.place()).map(|[_, other]| other);
        add(&mut pairs, image, earlier.filter(|other| other.place() < first.place()).unwrap_or(first));
    }
    for [image, first] in by_pixels.into_values() {
        add(&mut pairs, image, first);
    }
    let name = |split: u32| splits.get(split as usize).map_or_else(String::new, |name| (*name).to_owned());
    let described = |([split, earlier], pair): ([u32; 2], Pair)| Duplicates {
        splits: [name(split), name(earlier)],
        images: pair.images,
        contradictory: pair.contradictory,
        examples: pair.examples.into_iter().collect(),
    };
    pairs.into_iter().map(described).collect()
}

/// Each image that has the hash of an earlier one, and the first with that hash. The images are sorted.
fn copies(images: &[HashedImage]) -> impl Iterator<Item = [HashedImage; 2]> {
    let equal = images.chunk_by(|one, other| one.hash == other.hash);
    equal.flat_map(|images| images[1..].iter().map(move |image| [*image, images[0]]))
}

fn add(pairs: &mut BTreeMap<[u32; 2], Pair>, image: HashedImage, first: HashedImage) {
    let pair = pairs.entry([image.split, first.split]).or_default();
    pair.images += 1;
    let has_labels = ![image.label, first.label].contains(&UNLABELLED);
    pair.contradictory += u64::from(has_labels && image.label != first.label);
    pair.examples.insert([image.position.into(), first.position.into()]);
    if pair.examples.len() > EXAMPLES {
        pair.examples.pop_last();
    }
}
