//! TensorBoard's event files: protocol buffers of TensorFlow's `event.proto` and `summary.proto`, as records with the
//! masked CRC-32C of its `record_writer.cc`.

use chrono::{DateTime, Utc};
use prost::Message;

use crate::db::metrics::StoredPoint;

/// What TensorFlow adds to a rotated checksum, so that checksums of checksums stay useful.
const MASK: u32 = 0xa282_ead8;

#[derive(Clone, PartialEq, Message)]
struct EventRecord {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// Only of a file's first event.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<SummaryRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryRecord {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The name of a job's file. TensorBoard finds files by `tfevents`, and takes the number for the time of their start.
#[must_use]
pub fn name(job: &str, start: DateTime<Utc>) -> String {
    format!("events.out.tfevents.{:010}.{job}", start.timestamp())
}

/// The record that a file begins with.
#[must_use]
pub fn beginning(start: DateTime<Utc>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let version = Some("brain.Event:2".to_owned());
    append(&EventRecord { wall_time: seconds(start), file_version: version, ..EventRecord::default() }, &mut bytes);
    bytes
}

/// Records of points, one for each step and time. Values become float32, as TensorBoard has them.
#[must_use]
pub fn records(points: &[StoredPoint]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for measured in points.chunk_by(|one, next| (one.step, one.time) == (next.step, next.time)) {
        let value =
            |point: &StoredPoint| SummaryValue { tag: point.name.clone(), simple_value: Some(point.value as f32) };
        let summary = Some(SummaryRecord { value: measured.iter().map(value).collect() });
        let (wall_time, step) = (seconds(measured[0].time), measured[0].step);
        append(&EventRecord { wall_time, step, file_version: None, summary }, &mut bytes);
    }
    bytes
}

fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}

/// Appends a record: the length, its checksum, the message, its checksum; all numbers little-endian.
fn append(event: &EventRecord, bytes: &mut Vec<u8>) {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    bytes.extend(length);
    bytes.extend(masked(&length).to_le_bytes());
    bytes.extend(&message);
    bytes.extend(masked(&message).to_le_bytes());
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the `RecordWriter` of TensorBoard 2.21.
    const EXPECTED: &str = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c2b00000000\
        000000861bc34b09000000000000024010ac022a1d0a090a026c7215000000000a100a096576616c2f746f7031\
        159a99984272b085e6";

    #[test]
    fn records_are_those_that_tensorboard_writes() {
        let at = |milliseconds| DateTime::from_timestamp_millis(milliseconds).expect("a time");
        let point = |name: &str, value| StoredPoint {
            id: 1,
            name: name.to_owned(),
            step: 300,
            epoch: 1.0,
            time: at(2250),
            value,
            attempt: 1,
        };
        let mut bytes = beginning(at(1500));
        bytes.extend(records(&[point("lr", 0.0), point("eval/top1", 76.3)]));
        assert_eq!(hex::encode(bytes), EXPECTED);
    }
}
