//! Promise: weights beside a graph take no rows that its tables do not have.

use std::collections::BTreeMap;

use distillery_core::checkpoint::{self, Checkpoint, NewTensor};
use distillery_core::export::Student;
use distillery_core::exported::{ExportedNetwork, TensorRole};
use distillery_trainer::models;
use serde_json::json;

use super::networks::{Layers, pool, write};
use super::programs::{self, B, int, tensor};
use crate::support::Workspace;

/// A network that adds rows of a table [5, 8] to its map, by numbers in a buffer.
fn taking() -> programs::Network {
    let mut network = programs::Network::new();
    network.conv("stem", "x", [3, 4, 3], 8);
    network.parameter("table", &[5, 8]);
    network.buffer("positions", &[4]);
    network.weights["config"]["positions"]["tensor_meta"]["dtype"] = json!(5);
    network.recorded("positions")["dtype"] = json!(5);
    network.files.last_mut().unwrap().1 = [4_i64, 0, -5, 1].map(i64::to_le_bytes).concat();
    let indices = json!({"as_tensors": [{"name": "positions"}]});
    network.node("index.Tensor", "rows", &[("self", tensor("table")), ("indices", indices)], &[4, 8]);
    network.node("unsqueeze.default", "raised", &[("self", tensor("rows")), ("dim", int(1))], &[4, 1, 8]);
    network.node("add.Tensor", "sum", &[("self", tensor("stem")), ("other", tensor("raised"))], &[B, 4, 8, 8]);
    pool(&mut network, "vector", "sum", 4);
    network.linear("classifier", "vector", [4, 4]);
    network.result("classifier");
    network
}

#[test]
fn rows_that_a_table_does_not_have_are_refused_when_weights_are_loaded() {
    let workspace = Workspace::new();
    let path = write(taking(), &workspace.path("network.pt2"), 0);
    let weights = workspace.path("weights.safetensors");
    let file = ExportedNetwork::open(&path).unwrap();
    let network = models::exported::build(&path, &file).unwrap();
    for (number, says) in [
        (4, None),
        (-5, None),
        (5, Some("its node rows takes row 5 of a table with 5 rows")),
        (-6, Some("its node rows takes row -6 of a table with 5 rows")),
        (i64::MAX, Some("its node rows takes rows by numbers that are too large")),
    ] {
        let state = file.tensors().iter().filter(|stored| stored.role != TensorRole::Constant);
        let state: Vec<_> = state.map(|stored| (stored, file.bytes(stored).unwrap())).collect();
        let positions = [0, number, 1, 2].map(i64::to_le_bytes).concat();
        let tensors = state.iter().map(|(stored, bytes)| NewTensor {
            name: stored.tensor.name(),
            dtype: stored.tensor.dtype(),
            shape: stored.tensor.shape(),
            bytes: if stored.tensor.name() == "positions" { &positions } else { bytes },
        });
        checkpoint::write(&weights, &tensors.collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        let checkpoint = Checkpoint::open_as_written(&weights).unwrap();
        let loaded = models::exported::load(&network, &checkpoint, &weights, &[]).map_err(|error| error.to_string());
        let exported = Student::open(&weights, Some(&path)).map(drop).map_err(|error| error.to_string());
        for found in [loaded.map(drop), exported] {
            match (says, found) {
                (None, found) => assert_eq!(found, Ok(()), "{number}"),
                (Some(says), found) => {
                    let said = found.expect_err("there is no such row");
                    assert!(said.contains(says), "{number}: {said}");
                }
            }
        }
    }
}
