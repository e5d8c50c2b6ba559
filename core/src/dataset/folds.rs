//! Images that are held out of a split for evaluation: a fraction, which a seed may choose, or a fold for
//! cross-validation. Like those of [`subset`](super::subset), they have the classes in the split's proportions.

use super::subset::{by_class, hold_out};

/// One of `of` parts of a split, which have all classes in equal numbers, but for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// From 1 to `of`.
    pub number: u32,
    pub of: u32,
}

/// What is held out of a split to evaluate on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// A fraction of each class.
    Fraction(f64),
    Fold(Fold),
}

/// Splits off what is to be evaluated on. Images are taken from all over the split or, with a seed, at random. Returns
/// the positions of the images that remain and of those that are held out, both ascending.
#[must_use]
pub fn split_off(labels: &[u32], held_out: HeldOut, seed: Option<u64>) -> (Vec<usize>, Vec<usize>) {
    let order = order(labels, seed);
    let ordered: Vec<u32> = order.iter().map(|&position| labels[position]).collect();
    let parts = match held_out {
        HeldOut::Fraction(fraction) => hold_out(&ordered, fraction),
        HeldOut::Fold(fold) => one_fold(&ordered, fold),
    };
    let positions = |indices: Vec<usize>| {
        let mut positions: Vec<usize> = indices.into_iter().map(|index| order[index]).collect();
        positions.sort_unstable();
        positions
    };
    (positions(parts.0), positions(parts.1))
}

/// Deals the images of each class to the folds in turn. Each class begins with the fold after the last one's end, so
/// that the folds differ by at most one image in all, too.
fn one_fold(labels: &[u32], Fold { number, of }: Fold) -> (Vec<usize>, Vec<usize>) {
    let (mut kept, mut held_out) = (Vec::new(), Vec::new());
    let in_turn = by_class(labels).into_values().flatten().zip((1..=of).cycle());
    for (image, dealt_to) in in_turn {
        if dealt_to == number { held_out.push(image) } else { kept.push(image) }
    }
    (kept, held_out)
}

/// The positions in stored order or, with a seed, shuffled.
fn order(labels: &[u32], seed: Option<u64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    if let Some(seed) = seed {
        let mut state = seed;
        // Fisher and Yates. The modulo makes some orders more likely than others, by a part in 2^40, which does not
        // matter.
        for last in (1..order.len()).rev() {
            order.swap(last, (next(&mut state) % (last as u64 + 1)) as usize);
        }
    }
    order
}

/// splitmix64 (Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
