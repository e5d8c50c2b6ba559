//! How many damaged images a job puts up with.

/// Images that may be damaged whatever their share is, as long as they are at most a tenth.
const FEW: u64 = 5;

/// How many of that number of images may be undecodable: a job leaves them out, and fails if there are more. They are
/// 1 %, or five if that is more and at most a tenth of the images.
#[must_use]
pub fn tolerated_damage(images: u64) -> u64 {
    (images / 100).max(FEW.min(images / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_damaged_images_are_tolerated_of_few_and_one_in_a_hundred_of_many() {
        let tolerated = [0, 9, 10, 49, 50, 60, 500, 599, 600, 50_000].map(tolerated_damage);
        assert_eq!(tolerated, [0, 0, 1, 4, 5, 5, 5, 5, 6, 500]);
    }
}
