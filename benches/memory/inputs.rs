//! What clients send or ask for: exported networks and images.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// So many arguments of a node, each with so many numbers, as JSON.
pub fn arguments(count: usize, length: usize) -> String {
    let argument = format!(r#"{{"name":"self","arg":{{"as_floats":[{}0]}},"kind":1}}"#, "0,".repeat(length - 1));
    vec![argument; count].join(",")
}

/// Writes an exported network with another tensor of so many bytes, and another node if there are arguments for it.
pub fn write_network(path: &Path, arguments: &str, bytes: usize) -> anyhow::Result<()> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exported/test_efficientnet.pt2");
    let mut network = zip::ZipArchive::new(std::fs::File::open(fixture)?)?;
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path)?);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut folder = String::new();
    for index in 0..network.len() {
        let mut entry = network.by_index(index)?;
        let (name, mut content) = (entry.name()?.into_owned(), Vec::new());
        std::io::copy(&mut entry, &mut content)?;
        if name.ends_with("model_weights_config.json") {
            let mut weights: Value = serde_json::from_slice(&content)?;
            let size = |size: usize| json!([{"as_int": size}]);
            weights["config"]["large"] = json!({"path_name": "large", "is_param": true, "use_pickle": false,
                "tensor_meta": {"dtype": 7, "sizes": size(bytes / 4), "strides": size(1), "requires_grad": true,
                    "storage_offset": {"as_int": 0}, "layout": 7}});
            content = serde_json::to_vec(&weights)?;
            folder = name.replace("model_weights_config.json", "");
        }
        if name.ends_with("models/model.json") && !arguments.is_empty() {
            let node =
                format!(r#""nodes":[{{"target":"torch.ops.aten.relu.default","inputs":[{arguments}],"outputs":[]}},"#);
            let text = String::from_utf8(content)?;
            let (before, after) = text.split_once("\"nodes\":").context("a program")?;
            content = format!("{before}{node}{}", after.trim_start().trim_start_matches('[')).into_bytes();
        }
        writer.start_file(name, stored)?;
        writer.write_all(&content)?;
    }
    writer.start_file(format!("{folder}large"), stored)?;
    std::io::copy(&mut std::io::repeat(0).take(bytes as u64), &mut writer)?;
    writer.finish()?;
    Ok(())
}

/// Writes a black PNG of as many pixels as images may have, of 16 bits each and with transparency.
pub fn write_picture(path: &Path) -> anyhow::Result<()> {
    const SIDE: u32 = 8192;
    let mut content = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    // Each row begins with the byte that names its filter.
    let row = vec![0_u8; 1 + 8 * SIDE as usize];
    for _ in 0..SIDE {
        content.write_all(&row)?;
    }
    let size = SIDE.to_be_bytes();
    let header = [&size[..], &size, &[16, 6, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", content.finish()?), (b"IEND", Vec::new())] {
        let chunk = [&kind[..], &data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&chunk);
        file.extend(u32::try_from(data.len())?.to_be_bytes());
        file.extend(chunk);
        file.extend(crc.sum().to_be_bytes());
    }
    std::fs::create_dir_all(path.parent().context("a directory")?)?;
    Ok(std::fs::write(path, file)?)
}
