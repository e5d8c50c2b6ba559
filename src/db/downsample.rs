//! Down-samples a series to fewer points with the same peaks, from a stream of points, in bounded memory.

/// The length of a bucket, as the exponent of a power of two: the smallest that leaves at most `most` points of a
/// series between these steps, two for each bucket and its two ends.
pub fn bucket_length(first: i64, last: i64, most: usize) -> u32 {
    let buckets = i64::try_from(most.max(4) / 2 - 1).unwrap_or(i64::MAX);
    let mut length = 0;
    while bucket_of(last, length).saturating_sub(bucket_of(first, length)) >= buckets {
        length += 1;
    }
    length
}

/// The number of the bucket that a step is in.
pub fn bucket_of(step: i64, length: u32) -> i64 {
    step.checked_shr(length).unwrap_or(0)
}

/// Collects the points of one series and keeps a limited number.
///
/// Steps are cut into buckets whose length is a power of two. The lowest and the highest point of each bucket stay,
/// and the first and the last point of all. What stays depends on the points alone, not on their order.
#[derive(Debug)]
pub struct Downsampled<T> {
    most: usize,
    points: Vec<(i64, f64, T)>,
    is_downsampled: bool,
}

impl<T> Downsampled<T> {
    /// Keeps at most `most` points, but at least four.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most: most.max(4), points: Vec::new(), is_downsampled: false }
    }

    /// Adds the only point of a step.
    pub fn push(&mut self, step: i64, value: f64, point: T) {
        self.points.push((step, value, point));
        if self.points.len() >= self.most.saturating_mul(2) {
            self.reduce();
        }
    }

    /// The points that stay, by step.
    #[must_use]
    pub fn finish(mut self) -> Vec<T> {
        if self.is_downsampled || self.points.len() > self.most {
            self.reduce();
        } else {
            self.points.sort_by_key(|&(step, ..)| step);
        }
        self.points.into_iter().map(|(.., point)| point).collect()
    }

    fn reduce(&mut self) {
        self.is_downsampled = true;
        self.points.sort_by_key(|&(step, ..)| step);
        let (Some(&(first, ..)), Some(&(last, ..))) = (self.points.first(), self.points.last()) else { return };
        let length = bucket_length(first, last, self.most);
        let mut stays = vec![false; self.points.len()];
        let mut start = 0;
        for bucket in self.points.chunk_by(|one, next| bucket_of(one.0, length) == bucket_of(next.0, length)) {
            let (mut lowest, mut highest) = (0, 0);
            for (place, (_, value, _)) in bucket.iter().enumerate() {
                if value.total_cmp(&bucket[lowest].1).is_lt() {
                    lowest = place;
                }
                if value.total_cmp(&bucket[highest].1).is_gt() {
                    highest = place;
                }
            }
            stays[start + lowest] = true;
            stays[start + highest] = true;
            start += bucket.len();
        }
        stays[0] = true;
        stays[start - 1] = true;
        let mut stays = stays.into_iter();
        self.points.retain(|_| stays.next() == Some(true));
    }
}

/// Down-samples a series whose points come by step. Keeps what [`Downsampled`] keeps, and holds the points of one
/// bucket only.
#[derive(Debug)]
pub struct Buckets<T> {
    /// The first and the last step of the series.
    ends: (i64, i64),
    length: u32,
    current: Option<StepBucket<T>>,
}

#[derive(Debug)]
struct StepBucket<T> {
    number: i64,
    lowest: (i64, f64, T),
    highest: (i64, f64, T),
    /// The first and the last point of the series, if they are in it.
    ends: Vec<(i64, T)>,
}

impl<T: Clone> Buckets<T> {
    /// For a series that goes from one step to another, cut into buckets of this [length](bucket_length).
    pub fn new(ends: (i64, i64), length: u32) -> Self {
        Self { ends, length, current: None }
    }

    /// Adds the next point, and moves to `kept` what stays of the bucket before if this one begins another.
    pub fn push(&mut self, step: i64, value: f64, point: T, kept: &mut Vec<T>) {
        let number = bucket_of(step, self.length);
        if self.current.as_ref().is_some_and(|current| current.number != number) {
            self.finish(kept);
        }
        let (lowest, highest) = ((step, value, point.clone()), (step, value, point.clone()));
        let current = self.current.get_or_insert(StepBucket { number, lowest, highest, ends: Vec::new() });
        if value.total_cmp(&current.lowest.1).is_lt() {
            current.lowest = (step, value, point.clone());
        }
        if value.total_cmp(&current.highest.1).is_gt() {
            current.highest = (step, value, point.clone());
        }
        if step == self.ends.0 || step == self.ends.1 {
            current.ends.push((step, point));
        }
    }

    /// Moves to `kept` what stays of the last bucket.
    pub fn finish(&mut self, kept: &mut Vec<T>) {
        let Some(StepBucket { lowest, highest, mut ends, .. }) = self.current.take() else { return };
        ends.extend([lowest, highest].map(|(step, _, point)| (step, point)));
        ends.sort_by_key(|&(step, _)| step);
        ends.dedup_by_key(|&mut (step, _)| step);
        kept.extend(ends.into_iter().map(|(_, point)| point));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(most: usize, points: impl Iterator<Item = (i64, f64)>) -> Vec<i64> {
        let mut downsampled = Downsampled::new(most);
        points.for_each(|(step, value)| downsampled.push(step, value, step));
        downsampled.finish()
    }

    #[test]
    fn a_short_series_stays_whole_and_is_put_in_order() {
        assert_eq!(steps(10, [5, 3, 9].into_iter().map(|step| (step, 0.0))), [3, 5, 9]);
        assert_eq!(steps(10, (0..10).map(|step| (step, 0.0))).len(), 10);
        assert_eq!(steps(10, std::iter::empty()), [0; 0]);
    }

    #[test]
    fn what_stays_does_not_depend_on_the_order() {
        let value = |step: i64| ((step * 7919) % 1009) as f64;
        let forwards = steps(100, (0..10_007).map(|step| (step, value(step))));
        // 10,007 is a prime, so that these are all of the steps.
        let shuffled = steps(100, (0..10_007).map(|place| place * 4242 % 10_007).map(|step| (step, value(step))));
        let backwards = steps(100, (0..10_007).rev().map(|step| (step, value(step))));
        assert_eq!(forwards, shuffled);
        assert_eq!(forwards, backwards);
        assert!((50..=100).contains(&forwards.len()), "{}", forwards.len());
    }

    #[test]
    fn points_that_come_by_step_are_reduced_to_the_same_in_less_memory() {
        let value = |step: i64| ((step * 7919) % 1009) as f64;
        for (most, points) in [(4, 1000), (5, 8), (100, 10_007), (1000, 5000), (1000, 1001)] {
            let series = || (3..3 + 2 * points).step_by(2);
            let ends = (3, 3 + 2 * (points - 1));
            let mut buckets = Buckets::new(ends, bucket_length(ends.0, ends.1, most));
            let mut kept = Vec::new();
            series().for_each(|step| buckets.push(step, value(step), step, &mut kept));
            buckets.finish(&mut kept);
            assert_eq!(kept, steps(most, series().map(|step| (step, value(step)))), "{most} of {points}");
        }
    }

    #[test]
    fn peaks_and_ends_stay() {
        let value = |step| match step {
            4321 => 1e6,
            7777 => -1e6,
            _ => 0.0,
        };
        for most in [4, 5, 6, 17, 1000] {
            let left = steps(most, (0..10_000).map(|step| (step, value(step))));
            assert!(left.len() <= most, "{most}: {}", left.len());
            assert!(left.is_sorted());
            for step in [0, 4321, 7777, 9999] {
                assert!(left.contains(&step), "{most}: {step}");
            }
        }
    }

    #[test]
    fn steps_from_anywhere_and_values_that_are_no_numbers_do_no_harm() {
        let odd = [(i64::MIN, f64::NAN), (i64::MAX, f64::INFINITY), (0, -f64::NAN), (-1, 1.0), (1, 2.0), (2, 0.0)];
        let left = steps(4, odd.into_iter().cycle().take(60));
        assert_eq!((left[0], left[left.len() - 1]), (i64::MIN, i64::MAX));
    }
}
