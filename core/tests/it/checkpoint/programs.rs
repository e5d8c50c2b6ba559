//! Pickle programs and the files of torch.save that hold them.

use std::io::Write;

/// A legacy file whose object is made by this pickle program.
pub fn legacy(program: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    [magic, &b"\x80\x02M\xe9\x03."[..], b"\x80\x02}.", b"\x80\x02", program, b"."].concat()
}

/// The same, with these storages: key, elements, bytes.
pub fn legacy_with(program: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let keys: Vec<u8> = storages.iter().flat_map(|(key, ..)| [&text(key)[..], b"a"].concat()).collect();
    let bytes = storages.iter().flat_map(|(_, elements, bytes)| [&elements.to_le_bytes()[..], bytes].concat());
    [&legacy(program)[..], b"\x80\x02]", &keys, b".", &bytes.collect::<Vec<u8>>()].concat()
}

/// A zip file whose data.pkl is this program, with these storages.
pub fn zip(program: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("archive/data.pkl", stored).unwrap();
    writer.write_all(&[b"\x80\x02", program, b"."].concat()).unwrap();
    for (key, bytes) in storages {
        writer.start_file(format!("archive/data/{key}"), stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(number: i64) -> Vec<u8> {
    [b"\x8a\x08", &number.to_le_bytes()[..]].concat()
}

/// `{"w": tensor}`, the tensor of one float storage.
pub fn tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    [b"}".as_slice(), &text("w"), &bare_tensor(elements, offset, shape, strides), b"s"].concat()
}

pub fn bare_tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let tuple = |numbers: &[i64]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|&number| int(number)).collect();
        [b"(".as_slice(), &numbers, b"t"].concat()
    };
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &int(elements),
        b"tQ",
        &int(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

/// `{key: value, …}`, the values being made by programs.
pub fn dict(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(key, value)| [&text(key)[..], value, b"s"].concat());
    [b"}".as_slice(), &entries.collect::<Vec<u8>>()].concat()
}

/// A float tensor of one dimension with all elements of the storage `key`.
pub fn stored(key: &str, elements: i64) -> Vec<u8> {
    typed(key, "FloatStorage", elements)
}

/// The same with another class of storage.
pub fn typed(key: &str, class: &str, elements: i64) -> Vec<u8> {
    let storage =
        [b"(".as_slice(), &text("storage"), format!("ctorch\n{class}\n").as_bytes(), &text(key), &text("cpu")].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(),
        &storage,
        &int(elements),
        b"tQK\x00",
        &int(elements),
        b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}
