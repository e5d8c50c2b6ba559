//! The harness: a small data set, the trainer as a process, and training step by step in this process.

pub mod bounded;
pub mod disk;
mod files;
pub mod process;
pub mod rounding;
pub mod torch;
pub mod training;
pub mod watched;
mod workspace;

use serde_json::Value;

pub use files::{alter, appears};
pub use process::{Supervised, program, trainer};
pub use workspace::{Workspace, outcome, started, warnings};

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Merges `changes` into `value`, object by object.
pub fn merge(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(value), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(value.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, changes) => *value = changes,
    }
}

pub fn merged(mut value: Value, changes: Value) -> Value {
    merge(&mut value, changes);
    value
}
