//! Promise: no change of a few bytes makes the reader panic, and what it still reads is sound.

use distillery_core::exported::ExportedNetwork;
use serde_json::Value;

use super::programs::{Network, archive};
use crate::support::random::{Random, mutate};

/// Reads every tensor, and follows every index of the graph.
fn follow(network: &ExportedNetwork) {
    for stored in network.tensors() {
        assert_eq!(network.floats(stored).unwrap().len() as u64, stored.tensor.elements());
    }
    let graph = network.graph();
    for (index, node) in graph.nodes.iter().enumerate() {
        let is_earlier = |&&input: &&usize| input < graph.values.len();
        assert_eq!(node.inputs.iter().filter(is_earlier).count(), node.inputs.len(), "{index}");
        assert!(!node.outputs.is_empty());
    }
    assert!(serde_json::to_string(network.description()).is_ok());
}

#[test]
fn random_changes_of_the_archive_never_panic() {
    let bytes = Network::small().bytes();
    let mut random = Random(0x5eed);
    let mut sound = 0;
    for _ in 0..4_000 {
        let mut changed = bytes.clone();
        mutate(&mut changed, &mut random);
        if let Ok(network) = ExportedNetwork::from_bytes(changed) {
            sound += 1;
            follow(&network);
        }
    }
    // Most changes are noticed by a checksum.
    assert!((1..3_900).contains(&sound), "{sound}");
}

#[test]
fn random_changes_of_the_documents_never_panic() {
    let entries = Network::small().entries();
    let mut random = Random(0xfeed);
    let mut sound = 0;
    for round in 0..4_000 {
        let mut changed = entries.clone();
        mutate(&mut changed[round % 2].1, &mut random);
        let changed = archive(changed.iter().map(|(name, bytes)| (format!("net/{name}"), bytes.as_slice())));
        if let Ok(network) = ExportedNetwork::from_bytes(changed) {
            sound += 1;
            follow(&network);
        }
    }
    assert!((50..3_900).contains(&sound), "{sound}");
}

/// Replaces one number or text of a document by something else.
fn confuse(value: &mut Value, random: &mut Random, countdown: &mut usize) -> bool {
    match value {
        Value::Array(members) => members.iter_mut().any(|member| confuse(member, random, countdown)),
        Value::Object(members) => members.values_mut().any(|member| confuse(member, random, countdown)),
        Value::Null => false,
        leaf => {
            *countdown = countdown.wrapping_sub(1);
            if *countdown != 0 {
                return false;
            }
            let numbers = [0, -1, 1, 2, 3, 7, 1 << 31, i64::MAX, i64::MIN, 1 << 53];
            *leaf = match leaf {
                Value::Number(_) => numbers[random.below(numbers.len())].into(),
                Value::Bool(flag) => (!*flag).into(),
                _ => ["x", "conv", "act", "logits", "fc.weight", ""][random.below(6)].into(),
            };
            true
        }
    }
}

#[test]
fn other_numbers_and_names_never_panic() {
    let network = Network::small();
    let mut random = Random(0xc0de);
    let mut sound = 0;
    for round in 0..4_000 {
        let mut changed = network.clone();
        let document = if round % 4 == 0 { &mut changed.weights } else { &mut changed.program };
        let mut countdown = 1 + random.below(if round % 4 == 0 { 40 } else { 260 });
        confuse(document, &mut random, &mut countdown);
        if let Ok(read) = changed.read() {
            sound += 1;
            follow(&read);
        }
    }
    assert!((50..3_900).contains(&sound), "{sound}");
}
