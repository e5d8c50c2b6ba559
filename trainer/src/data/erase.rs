//! Random erasing (Zhong et al. 2020): a rectangle of a training image is replaced by the mean colour.

use rand::{Rng, RngExt};
use tch::{Kind, Tensor};

use super::drawn::{DrawSource, DrawnRows};

/// The rectangles of an epoch's images: rows [N, 4] for [`erase`].
#[derive(Debug)]
pub struct Erasures(DrawnRows);

impl Erasures {
    /// Draws rectangles from (seed, epoch, batch), for the batches of an epoch from `first_batch` on, each with this
    /// probability.
    #[must_use]
    pub fn of_epoch(source: DrawSource, probability: f64, epoch: u32, first_batch: u64, batch_size: u64) -> Self {
        let draw = |random: &mut _| draw(source.side, probability, random);
        Self(DrawnRows::of_epoch(b"erase\0\0\0", source, epoch, (first_batch, batch_size), draw))
    }

    /// Draws rectangles from (seed, view, image).
    #[must_use]
    pub fn of_view(source: DrawSource, probability: f64, view: u32) -> Self {
        let draw = |random: &mut _| draw(source.side, probability, random);
        Self(DrawnRows::of_view(b"viewera\0", source, view, draw))
    }

    /// The rectangles [B, 4] of a batch, as [`Crops::of_batch`](super::Crops::of_batch).
    pub fn of_batch(&self, batch: u64, row: usize, indices: &Tensor) -> Tensor {
        self.0.of_batch(batch, row, indices)
    }
}

/// Share of the area that is erased, and its aspect ratio: torchvision's defaults.
const SCALE: [f64; 2] = [0.02, 0.33];
const RATIO: [f64; 2] = [0.3, 3.3];
/// Attempts to find a rectangle that fits.
const ATTEMPTS: usize = 10;

/// Draws the first row, the row behind the last, the first column and the column behind the last of a rectangle, like
/// torchvision's `RandomErasing`; four zeros if nothing is erased.
fn draw(side: u64, probability: f64, random: &mut impl Rng) -> [i64; 4] {
    if !random.random_bool(probability) {
        return [0; 4];
    }
    let whole = side as f64;
    for _ in 0..ATTEMPTS {
        let area = whole * whole * random.random_range(SCALE[0]..SCALE[1]);
        let ratio = random.random_range(RATIO[0].ln()..RATIO[1].ln()).exp();
        let [height, width] = [area * ratio, area / ratio].map(|square| square.sqrt().round_ties_even());
        if height < whole && width < whole {
            let [height, width, side] = [height, width, whole].map(|length| length as i64);
            let [top, left] = [height, width].map(|length| random.random_range(0..=side - length));
            return [top, top + height, left, left + width];
        }
    }
    [0; 4]
}

/// Replaces a rectangle of each of `images` [B, 3, S, S] (float32) by the colour `blank` [1, 3, 1, 1]. `rectangles`
/// [B, 4] (int64, on the images' device) are those of [`Erasures`]. Does not wait for the device.
pub fn erase(images: &Tensor, rectangles: &Tensor, blank: &Tensor) -> Tensor {
    let inside = within(images, |index| rectangles.select(1, index).view([-1, 1, 1, 1]));
    blank.where_self(&inside, images)
}

/// Which pixels of `images` [B, 3, S, S] are within the rows from `border(0)` to `border(1)` and the columns from
/// `border(2)` to `border(3)`: [*, 1, S, S], where each border is [*, 1, 1, 1].
pub(super) fn within(images: &Tensor, border: impl Fn(i64) -> Tensor) -> Tensor {
    let side = images.size()[3];
    let range = Tensor::arange(side, (Kind::Int64, images.device()));
    let (rows, columns) = (range.view([1, 1, side, 1]), range.view([1, 1, 1, side]));
    let between =
        |places: &Tensor, from: i64| places.ge_tensor(&border(from)).logical_and(&places.lt_tensor(&border(from + 1)));
    between(&rows, 0).logical_and(&between(&columns, 2))
}
