//! Rows cached on a device reach their file and are loaded from it.

use std::os::unix::fs::FileExt;
use std::path::Path;

use distillery_trainer::cache::Cache;
use distillery_trainer::cache::rows::{RowIndices, Rows};
use tch::{Device, Kind, Tensor};

use crate::support::torch::hashed;

const COUNT: usize = 2500;
const WIDTH: usize = 6;

fn open(directory: &Path) -> Rows {
    let cache = Cache::open(directory, 1 << 20).unwrap();
    let (rows, replaced) = Rows::in_file(&cache, &cache.path("teacher", "k"), "k", COUNT as u64, WIDTH).unwrap();
    assert!(!replaced);
    rows
}

fn on_device(directory: &Path) -> Rows {
    open(directory).on_device(COUNT, Device::Cpu).unwrap()
}

fn get(rows: &mut Rows, numbers: &[usize]) -> Option<Tensor> {
    let indices: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
    rows.get(RowIndices { host: numbers, device: &Tensor::from_slice(&indices) }).unwrap()
}

#[test]
fn rows_on_a_device_are_in_the_file_after_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let (mut rows, mut beside) = (on_device(directory.path()), open(directory.path()));
    let all: Vec<usize> = (0..COUNT).rev().filter(|number| number % 3 != 1).collect();
    let values = hashed(&[all.len() as i64, WIDTH as i64], 0).to_kind(Kind::Float);
    for (numbers, first) in all.chunks(64).zip((0..).step_by(64)) {
        let indices: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
        let numbers = RowIndices { host: numbers, device: &Tensor::from_slice(&indices) };
        rows.put(numbers, &values.narrow(0, first, indices.len() as i64)).unwrap();
    }
    let wanted = |range: std::ops::Range<i64>| values.slice(0, range.start, range.end, 1);
    assert!(get(&mut rows, &all[40..90]).unwrap().equal(&wanted(40..90)));
    assert!(get(&mut beside, &all[..1]).is_none());
    rows.write().unwrap();
    assert!(get(&mut beside, &all).unwrap().equal(&values));
    // A later run loads the whole file.
    let mut later = on_device(directory.path());
    assert!(get(&mut later, &all).unwrap().equal(&values));
    assert!(get(&mut later, &[2, 1]).is_none());
    assert_eq!(later.damaged(), 0);
}

#[test]
fn a_damaged_row_is_not_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = on_device(directory.path());
    let values = Tensor::ones([3, WIDTH as i64], (Kind::Float, Device::Cpu));
    let indices = Tensor::from_slice(&[5_i64, 1700, 8]);
    rows.put(RowIndices { host: &[5, 1700, 8], device: &indices }, &values).unwrap();
    rows.write().unwrap();
    let path = Cache::open(directory.path(), 1 << 20).unwrap().path("teacher", "k");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[1], Rows::bytes(1700, WIDTH) + 11).unwrap();
    let mut later = on_device(directory.path());
    assert_eq!(later.damaged(), 1);
    assert!(get(&mut later, &[1700]).is_none());
    assert!(get(&mut later, &[8, 5]).unwrap().equal(&values.narrow(0, 0, 2)));
}
