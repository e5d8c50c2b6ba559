//! Reads the document of a sweep and reports every fault with its place.

use serde_json::{Map, Value};

use super::pointer::{escaped, is_within, tokens};
use super::{
    Axis, DEFAULT_KEEP, LONGEST_NAME, MOST_AXES, MOST_COMBINATIONS, MOST_JOBS, MOST_RUNGS, MOST_SEEDS, MOST_VALUES,
    MOST_WEBHOOKS, Strategy, SweepSpec,
};
use crate::spec::Fault;
use crate::text::{self, counted};

const FIELDS: [&str; 7] = ["name", "base", "axes", "seeds", "strategy", "max_parallel", "webhooks"];

/// The faults found so far.
#[derive(Default)]
struct SweepFaults(Vec<Fault>);

impl SweepFaults {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Fault { pointer: pointer.into(), detail: detail.into() });
    }

    /// Reports members that the object must not have.
    fn unknown(&mut self, pointer: &str, object: &Map<String, Value>, known: &[&str]) {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())).take(MOST_AXES) {
            let known = known.join(", ");
            self.add(format!("{pointer}/{}", escaped(name)), format!("unknown field: the fields are {known}"));
        }
    }

    /// A whole number in this range; `None` if it is absent or wrong.
    fn number(&mut self, pointer: &str, value: Option<&Value>, least: u64, most: u64) -> Option<u64> {
        let value = value.filter(|value| !value.is_null())?;
        let number = value.as_u64().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.add(pointer, format!("expected a whole number from {least} to {most}"));
        }
        number
    }
}

impl SweepSpec {
    /// Reads the body of `POST /v1/sweeps`, but not the documents of its jobs.
    ///
    /// # Errors
    /// All faults, with their places.
    pub fn read(document: &Value) -> Result<Self, Vec<Fault>> {
        let mut faults = SweepFaults::default();
        let Some(object) = document.as_object() else {
            faults.add("", "expected an object with base and axes");
            return Err(faults.0);
        };
        faults.unknown("", object, &FIELDS);
        let base = base(object, &mut faults);
        let name = name(object, &base, &mut faults);
        let seeds = faults.number("/seeds", object.get("seeds"), 1, MOST_SEEDS.into()).unwrap_or(1);
        let max_parallel = faults.number("/max_parallel", object.get("max_parallel"), 1, MOST_JOBS.into());
        let strategy = strategy(object.get("strategy"), &mut faults);
        let axes = axes(object.get("axes"), &mut faults);
        let webhooks = webhooks(object.get("webhooks"), &mut faults);
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (seeds, max_parallel) = (narrow(seeds), max_parallel.map(narrow));
        let sweep = Self { name, base, axes, seeds, strategy, max_parallel, webhooks };
        sweep.check_axes(&mut faults);
        if faults.0.is_empty() {
            sweep.check_size(&mut faults);
        }
        if faults.0.is_empty() { Ok(sweep) } else { Err(faults.0) }
    }

    /// Reports axes that vary what the sweep itself sets, and axes inside one another.
    fn check_axes(&self, faults: &mut SweepFaults) {
        let mut own = vec![("/name", "the sweep names its jobs")];
        if self.seeds > 1 {
            own.push(("/training/seed", "seeds varies it: leave out one of the two"));
        }
        if matches!(self.strategy, Strategy::Halving { .. }) {
            own.push(("/training/epochs", "the last rung is the number of epochs, for every job"));
        }
        for (place, axis) in self.axes.iter().enumerate() {
            let pointer = format!("/axes/{}", escaped(&axis.pointer));
            for (taken, why) in own.iter().filter(|(taken, _)| axis.pointer == *taken) {
                faults.add(&pointer, format!("{taken} cannot be an axis: {why}"));
            }
            let inner = self.axes.iter().enumerate();
            for (_, outer) in inner.filter(|(other, outer)| *other != place && is_within(&axis.pointer, &outer.pointer))
            {
                faults
                    .add(&pointer, format!("lies within the axis {}: put both into the values of one", outer.pointer));
            }
        }
    }

    fn check_size(&self, faults: &mut SweepFaults) {
        let grid = self.grid();
        let count = match &self.strategy {
            Strategy::Random { jobs, .. } => {
                if jobs < &self.seeds {
                    let seeds = self.seeds;
                    faults.add("/strategy/jobs", format!("is less than the {seeds} seeds of one combination"));
                }
                grid.unwrap_or(u64::MAX).min(u64::from(jobs / self.seeds))
            }
            _ => grid.unwrap_or(u64::MAX),
        };
        let jobs = count.saturating_mul(u64::from(self.seeds));
        if grid.is_none() || count > u64::from(MOST_COMBINATIONS) || jobs > u64::from(MOST_JOBS) {
            let all = grid.map_or_else(|| "far too many".to_owned(), |grid| grid.to_string());
            let seeds = counted(self.seeds, "seed", "seeds");
            faults.add(
                "/axes",
                format!(
                    "the axes have {all} combinations, with {seeds} each. A sweep has at most {MOST_COMBINATIONS} \
                     combinations and {MOST_JOBS} jobs: shorten an axis, lower seeds, or choose the strategy random"
                ),
            );
        }
    }
}

fn base(object: &Map<String, Value>, faults: &mut SweepFaults) -> Value {
    let base = object.get("base").cloned().unwrap_or(Value::Null);
    if !base.is_object() {
        faults.add("/base", "expected the job that is varied: an object as for POST /v1/jobs");
    }
    base
}

/// The sweep's name, or the base's, or a general one.
fn name(object: &Map<String, Value>, base: &Value, faults: &mut SweepFaults) -> String {
    let given = object.get("name").filter(|name| !name.is_null());
    if let Some(given) = given {
        let name = given.as_str().filter(|name| !text::is_blank(name) && !name.chars().any(char::is_control));
        if let Some(name) = name.filter(|name| name.chars().count() <= LONGEST_NAME) {
            return name.to_owned();
        }
        faults.add(
            "/name",
            format!("expected a text of 1 to {LONGEST_NAME} characters, not blanks alone, without control characters"),
        );
    }
    let of_base = base["name"].as_str().filter(|name| !text::is_blank(name) && !name.chars().any(char::is_control));
    of_base.unwrap_or("sweep").chars().take(LONGEST_NAME).collect()
}

fn axes(given: Option<&Value>, faults: &mut SweepFaults) -> Vec<Axis> {
    let Some(object) = given.and_then(Value::as_object).filter(|object| !object.is_empty()) else {
        faults
            .add("/axes", "expected an object with at least one axis, such as {\"/distillation/temperature\": [2, 4]}");
        return Vec::new();
    };
    if object.len() > MOST_AXES {
        faults.add("/axes", format!("has {} axes, and at most {MOST_AXES} are allowed", object.len()));
        return Vec::new();
    }
    let mut axes = Vec::new();
    for (pointer, values) in object {
        let place = format!("/axes/{}", escaped(pointer));
        if tokens(pointer).is_none() {
            faults.add(&place, "is no JSON pointer into the job: expected one such as /distillation/temperature");
        }
        let Some(values) = values.as_array().filter(|values| (1..=MOST_VALUES).contains(&values.len())) else {
            faults.add(&place, format!("expected a list of 1 to {MOST_VALUES} values"));
            continue;
        };
        for (index, value) in values.iter().enumerate() {
            if values[..index].contains(value) {
                faults.add(format!("{place}/{index}"), "appears twice: each value counts once");
            }
        }
        axes.push(Axis { pointer: pointer.clone(), values: values.clone() });
    }
    axes
}

/// Names, of which only the server knows whether they are those of webhooks.
fn webhooks(given: Option<&Value>, faults: &mut SweepFaults) -> Vec<String> {
    let Some(given) = given.filter(|given| !given.is_null()) else { return Vec::new() };
    let Some(names) = given.as_array().filter(|names| names.len() <= MOST_WEBHOOKS) else {
        faults.add("/webhooks", format!("expected a list of at most {MOST_WEBHOOKS} names of webhooks"));
        return Vec::new();
    };
    for (index, name) in names.iter().enumerate() {
        if !name.is_string() {
            faults.add(format!("/webhooks/{index}"), "expected the name of a webhook");
        } else if names[..index].contains(name) {
            faults.add(format!("/webhooks/{index}"), "appears twice: a webhook is told once");
        }
    }
    names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn strategy(given: Option<&Value>, faults: &mut SweepFaults) -> Strategy {
    let Some(given) = given.filter(|given| !given.is_null()) else { return Strategy::Grid };
    let empty = Map::new();
    let object = given.as_object().unwrap_or(&empty);
    match object.get("type").and_then(Value::as_str) {
        Some("grid") => {
            faults.unknown("/strategy", object, &["type"]);
            Strategy::Grid
        }
        Some("random") => {
            faults.unknown("/strategy", object, &["type", "jobs", "seed"]);
            let jobs = faults.number("/strategy/jobs", object.get("jobs"), 1, MOST_JOBS.into());
            if object.get("jobs").is_none_or(Value::is_null) {
                faults.add("/strategy/jobs", "expected the number of jobs to draw");
            }
            let seed = faults.number("/strategy/seed", object.get("seed"), 0, u64::from(u32::MAX)).unwrap_or(0);
            Strategy::Random { jobs: jobs.and_then(|jobs| u32::try_from(jobs).ok()).unwrap_or(1), seed }
        }
        Some("halving") => {
            faults.unknown("/strategy", object, &["type", "rungs", "keep"]);
            let keep = object.get("keep").filter(|keep| !keep.is_null()).map(|keep| {
                let number = keep.as_f64().filter(|number| *number > 0.0 && *number < 1.0);
                number.unwrap_or_else(|| {
                    faults.add("/strategy/keep", "expected a number between 0 and 1, such as 0.33");
                    DEFAULT_KEEP
                })
            });
            Strategy::Halving { rungs: rungs(object.get("rungs"), faults), keep: keep.unwrap_or(DEFAULT_KEEP) }
        }
        Some(other) => {
            faults.add("/strategy/type", text::unknown("strategy", other, &["grid", "random", "halving"]));
            Strategy::Grid
        }
        None => {
            faults.add("/strategy/type", "expected \"grid\", \"random\" or \"halving\"");
            Strategy::Grid
        }
    }
}

fn rungs(given: Option<&Value>, faults: &mut SweepFaults) -> Vec<u32> {
    let Some(given) = given.and_then(Value::as_array).filter(|rungs| (2..=MOST_RUNGS).contains(&rungs.len())) else {
        let what = "the epochs after which jobs are compared, such as [5, 15, 60]: the last is the end of training";
        faults.add("/strategy/rungs", format!("expected a list of 2 to {MOST_RUNGS} numbers, {what}"));
        return Vec::new();
    };
    let mut rungs: Vec<u32> = Vec::new();
    for (index, value) in given.iter().enumerate() {
        let pointer = format!("/strategy/rungs/{index}");
        let Some(epochs) = value.as_u64().and_then(|epochs| u32::try_from(epochs).ok()).filter(|epochs| *epochs > 0)
        else {
            faults.add(&pointer, "expected a whole number of epochs, at least 1");
            continue;
        };
        if let Some(last) = rungs.last().filter(|last| epochs <= **last) {
            faults.add(&pointer, format!("rungs must ascend: {epochs} follows {last}"));
        }
        rungs.push(epochs);
    }
    rungs
}
