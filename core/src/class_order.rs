//! In which order a network's outputs are the classes of a data set: by name, or guessed from what the network
//! predicts.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::dataset::forms::composed;
use crate::text::quoted;

/// Most names, or cycles of classes, that a message lists.
const LISTED: usize = 5;
/// Percentage points of top-1 that another order must gain to be a guess.
const LEAST_GAIN: f64 = 15.0;
/// Images per class at least, for a guess.
const LEAST_IMAGES: usize = 5;

/// A permutation: which output of the network stands for each class of the data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassOrder(Vec<u32>);

/// A [`ClassOrder`] that explains predictions better than none.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderGuess {
    pub order: ClassOrder,
    /// Top-1 accuracy in percent with this order.
    pub top1: f64,
}

impl ClassOrder {
    /// The order by name. Names are the same if they differ only in their Unicode normal form, or else in case and in
    /// `_`, `-` and spaces, unless that makes two classes one.
    ///
    /// # Errors
    /// The names are not those of the data set's classes: a predicate that says which.
    pub fn by_name(network: &[String], data: &[String]) -> Result<Self, String> {
        if network.len() != data.len() {
            return Err(format!("has {} names for {} classes", network.len(), data.len()));
        }
        let exact = |name: &String| name.clone();
        let found = Self::matching(network, data, exact);
        let in_one_form = |name: &String| composed(name).into_owned();
        found.or_else(|wrong| {
            let found = Self::matching(network, data, in_one_form);
            found.or_else(|_| Self::matching(network, data, |name| folded(name))).map_err(|_| wrong)
        })
    }

    fn matching(network: &[String], data: &[String], key: impl Fn(&String) -> String) -> Result<Self, String> {
        let mut outputs = HashMap::new();
        for (output, name) in (0..).zip(network) {
            if outputs.insert(key(name), output).is_some() {
                return Err(format!("names {} twice", shown([name])));
            }
        }
        let order: Option<Vec<u32>> = data.iter().map(|name| outputs.remove(&key(name))).collect();
        if let Some(order) = order {
            return Ok(Self(order));
        }
        let missing = |names: &[String], others: &[String]| {
            let others: HashSet<String> = others.iter().map(&key).collect();
            shown(names.iter().filter(|name| !others.contains(&key(name))))
        };
        let (extra, lacking) = (missing(network, data), missing(data, network));
        if extra.is_empty() {
            return Err("fits a data set with a name for each class only, and this one has names twice".to_owned());
        }
        Err(format!("names {extra}, which the data set does not have, and not {lacking}"))
    }

    /// The order that explains predictions, given as pairs of label and predicted class, if it is another than that of
    /// the labels and far better. Takes the most frequent pairs first.
    #[must_use]
    pub fn guess(pairs: &[[u32; 2]], classes: u32) -> Option<OrderGuess> {
        if pairs.len() < LEAST_IMAGES * classes as usize {
            return None;
        }
        let mut counts: BTreeMap<[u32; 2], usize> = BTreeMap::new();
        pairs.iter().for_each(|&pair| *counts.entry(pair).or_default() += 1);
        let mut cells: Vec<([u32; 2], usize)> = counts.into_iter().collect();
        // Among equal ones, a class that is right stays.
        cells.sort_by_key(|&([label, predicted], count)| (std::cmp::Reverse(count), label != predicted));
        let mut order: Vec<Option<u32>> = vec![None; classes as usize];
        let mut taken = vec![false; classes as usize];
        let (mut before, mut after) = (0, 0);
        for ([label, predicted], count) in cells {
            before += if label == predicted { count } else { 0 };
            let place = order.get_mut(label as usize)?;
            if place.is_none() && !*taken.get(predicted as usize)? {
                (*place, taken[predicted as usize]) = (Some(predicted), true);
                after += count;
            }
        }
        let percent = |count: usize| 100.0 * count as f64 / pairs.len() as f64;
        let chance = 100.0 / f64::from(classes);
        if percent(after) < percent(before) + LEAST_GAIN || percent(after) < chance + 2.0 * LEAST_GAIN {
            return None;
        }
        // Classes that are left over keep their places where these are free.
        let kept: Vec<usize> = (0..taken.len()).filter(|&class| order[class].is_none() && !taken[class]).collect();
        for class in kept {
            (order[class], taken[class]) = (Some(class as u32), true);
        }
        let mut free = (0..classes).filter(|&output| !taken[output as usize]);
        let order = order.into_iter().map(|output| output.or_else(|| free.next())).collect::<Option<Vec<u32>>>()?;
        Some(OrderGuess { order: Self(order), top1: percent(after) })
    }

    /// The order of a network whose outputs were put in this order before: for each class, the output that stood in the
    /// place of its own.
    #[must_use]
    pub fn after(&self, applied: Option<&[i64]>) -> Self {
        let original = |&output: &u32| {
            let found = applied.and_then(|applied| applied.get(output as usize));
            found.and_then(|&output| u32::try_from(output).ok()).unwrap_or(output)
        };
        Self(self.0.iter().map(original).collect())
    }

    /// For each class of the data set, the output that stands for it.
    #[must_use]
    pub fn outputs(&self) -> &[u32] {
        &self.0
    }

    /// Whether the outputs are in the data set's order.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.moved() == 0
    }

    /// The number of classes whose output is in another place.
    #[must_use]
    pub fn moved(&self) -> usize {
        self.0.iter().zip(0_u32..).filter(|&(&output, class)| output != class).count()
    }

    /// The names of the outputs, in their order.
    #[must_use]
    pub fn names(&self, data: &[String]) -> Vec<String> {
        let mut names = vec![String::new(); self.0.len()];
        for (&output, name) in self.0.iter().zip(data) {
            names[output as usize].clone_from(name);
        }
        names
    }

    /// The classes that change places: `cat↔dog, 1→4→2→1 and 3 more cycles`.
    #[must_use]
    pub fn cycles(&self, names: &[String]) -> String {
        let name = |class: usize| names.get(class).map_or_else(|| class.to_string(), |name| shortened(name));
        let mut seen = vec![false; self.0.len()];
        let mut cycles = Vec::new();
        for start in 0..self.0.len() {
            let mut cycle = Vec::new();
            let mut at = start;
            while !std::mem::replace(&mut seen[at], true) {
                cycle.push(name(at));
                at = self.0[at] as usize;
            }
            match cycle.len() {
                0 | 1 => {}
                2 => cycles.push(cycle.join("↔")),
                _ => cycles.push(format!("{}→{}", cycle.join("→"), cycle[0])),
            }
        }
        let more = cycles.len().saturating_sub(LISTED);
        let listed = cycles[..cycles.len() - more].join(", ");
        if more == 0 { listed } else { format!("{listed} and {more} more cycles") }
    }
}

/// The names of a data set's classes; their numbers where they have none.
#[must_use]
pub fn names_or_numbers(names: Option<&[String]>, classes: u32) -> Vec<String> {
    names.map_or_else(|| (0..classes).map(|class| class.to_string()).collect(), <[String]>::to_vec)
}

/// Whether a list of names is that of classes without names.
#[must_use]
pub fn are_numbers(names: &[String]) -> bool {
    names.iter().enumerate().all(|(class, name)| *name == class.to_string())
}

/// A name without what spellings differ in.
fn folded(name: &str) -> String {
    composed(name).chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
}

/// The first names of a list, quoted.
fn shown<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let mut names = names.into_iter();
    let first: Vec<String> = names.by_ref().take(LISTED).map(|name| quoted(&shortened(name))).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn shortened(name: &str) -> String {
    const LONGEST: usize = 40;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}
