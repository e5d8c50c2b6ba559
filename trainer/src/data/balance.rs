//! Balanced sampling: an epoch shows equally many images of each class.

use rand::Rng;
use rand::seq::SliceRandom;

/// The images of a split by class.
#[derive(Debug)]
pub(super) struct Balance {
    /// The images of each class that is not empty.
    classes: Vec<Vec<usize>>,
    images: usize,
}

impl Balance {
    pub(super) fn new(labels: &[i64], classes: u32) -> Self {
        let mut by_class = vec![Vec::new(); classes as usize];
        for (image, &label) in labels.iter().enumerate() {
            if let Some(class) = usize::try_from(label).ok().and_then(|label| by_class.get_mut(label)) {
                class.push(image);
            }
        }
        by_class.retain(|class| !class.is_empty());
        Self { images: by_class.iter().map(Vec::len).sum(), classes: by_class }
    }

    /// How often each of `count` images comes in an epoch. In all they come as often as there are images with a class.
    /// The totals of two classes differ by at most one, and so do those of two images of a class; who comes once more
    /// is drawn. Images without a class come once.
    pub(super) fn multiplicities(&self, count: usize, random: &mut impl Rng) -> Vec<u32> {
        let mut often = vec![1; count];
        let mut order: Vec<usize> = (0..self.classes.len()).collect();
        order.shuffle(random);
        for (number, &class) in order.iter().enumerate() {
            let images = &self.classes[class];
            let share = (number + 1) * self.images / order.len() - number * self.images / order.len();
            let (each, more) = (share / images.len(), share % images.len());
            let mut shuffled = images.clone();
            shuffled.shuffle(random);
            for (place, image) in shuffled.into_iter().enumerate() {
                often[image] = (each + usize::from(place < more)) as u32;
            }
        }
        often
    }
}

/// How often each image comes in an epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeats<'a> {
    /// By image; `None` for once.
    pub often: Option<&'a [u32]>,
    /// What is added to an image's number each time that it comes again: the number of images, if it is to be augmented
    /// differently each time, or 0.
    pub stride: usize,
}

impl Repeats<'_> {
    /// Each of `images` as often as it comes.
    pub(super) fn of(self, images: impl Iterator<Item = usize>) -> Vec<usize> {
        let Some(often) = self.often else { return images.collect() };
        let times = |image: usize| (0..often[image] as usize).map(move |time| image + time * self.stride);
        images.flat_map(times).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::generator;

    #[test]
    fn an_epoch_has_as_many_images_of_each_class_and_uses_all_of_the_small_ones() {
        let labels: Vec<i64> =
            [(0, 90), (1, 9), (3, 1)].iter().flat_map(|&(class, count)| vec![class; count]).collect();
        let balance = Balance::new(&labels, 4);
        let mut seen = vec![0; labels.len()];
        for epoch in 0..60 {
            let often = balance.multiplicities(labels.len(), &mut generator(b"test\0\0\0\0", 1, epoch, 0));
            assert_eq!(often.iter().sum::<u32>(), 100);
            let of_class =
                |class| labels.iter().zip(&often).filter(move |(label, _)| **label == class).map(|(_, often)| often);
            for class in [0, 1, 3] {
                let sum: u32 = of_class(class).sum();
                assert!((33..=34).contains(&sum), "{class}: {sum}");
                let (least, most) = (of_class(class).min().unwrap(), of_class(class).max().unwrap());
                assert!(most - least <= 1, "{class}: {least} to {most}");
            }
            seen.iter_mut().zip(&often).for_each(|(seen, often)| *seen += often);
        }
        assert!(seen.iter().all(|&seen| seen > 0), "every image comes at some time: {seen:?}");
        // Images without a label come once.
        assert_eq!(Balance::new(&[0, -1, 0, 1], 2).multiplicities(4, &mut generator(b"test\0\0\0\0", 1, 0, 0))[1], 1);
    }
    #[test]
    fn an_image_that_comes_again_has_another_number_or_the_same() {
        let often = [0, 3, 1];
        let of = |stride| Repeats { often: Some(&often), stride }.of(0..3);
        assert_eq!(of(3), [1, 4, 7, 2]);
        assert_eq!(of(0), [1, 1, 1, 2]);
        assert_eq!(Repeats { often: None, stride: 3 }.of(0..3), [0, 1, 2]);
    }
}
