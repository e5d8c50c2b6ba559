//! `.pt2` files: the archive that a student's network came in, with the student's weights.
//!
//! A student is uploaded in training mode. Whoever takes it wants to run it, so the program that is written computes as
//! in evaluation.
//!
//! The network came from its uploader, and the student goes to whoever takes it. `torch.export.load` unpickles sample
//! inputs, runs compiled code and guards, and evaluates expressions. So only what it needs is copied: the program
//! without guards and with expressions of sizes alone, the constants, and three short words.

use std::collections::HashMap;
use std::io::{Seek, Write};

use serde_json::json;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::evaluation_mode::EvaluationMode;
use super::{Error, Result, Student, StudentSource, json_filter, refused};
use crate::checkpoint::Dtype;
use crate::exported::archive::PROGRAM;
use crate::exported::{ExportedNetwork, Mode, StoredTensor, TensorRole};

/// The folder in the archive.
const FOLDER: &str = "student";
/// Paths and source lines of the machine that exported the program, and code that checks inputs.
const RULES: json_filter::Rules<'_> = json_filter::Rules {
    dropped: &["stack_trace", "guards_code"],
    checked: Some(("expr_str", is_size)),
    // The nodes.
    edited: ("target", "torch.ops.aten."),
    resized: &[],
};
/// Copies a program that has been copied by those already, but for its shapes.
const SHAPES: json_filter::Rules<'_> =
    json_filter::Rules { dropped: &[], checked: None, edited: ("", ""), resized: &[] };
/// Alignment of storages, as PyTorch's.
const ALIGNMENT: u16 = 64;
/// PyTorch's number of the layout of ordinary tensors.
const STRIDED: u64 = 7;

/// Writes the student as `torch.export.load` reads it, computing as in evaluation. Equal students give equal bytes.
///
/// # Errors
/// The student is not an exported network, its program cannot be made to compute as in evaluation, or a file cannot be
/// read or written.
pub fn write(student: &Student, output: impl Write + Seek) -> Result<()> {
    let network = match student.source() {
        StudentSource::Exported(network) => network,
        StudentSource::Zoo(architecture) => {
            return refused(format!(
                "{} is a network of this program and came in no .pt2: take it as safetensors, which the code of its \
                 page loads into PyTorch, or as ONNX",
                architecture.name
            ));
        }
    };
    let program = program(network)?;
    let archive = network.archive()?;
    let mut writer = Writer { zip: ZipWriter::new(output) };
    writer.entry("archive_format", b"pt2")?;
    for (name, usual) in [("archive_version", "0"), (".data/version", "3")] {
        let word = archive.word(name)?.unwrap_or_else(|| usual.to_owned());
        // PyTorch ends the version of its archives with a line.
        let end = if name == ".data/version" { "\n" } else { "" };
        writer.entry(name, format!("{word}{end}").as_bytes())?;
    }
    writer.entry("byteorder", b"little")?;
    writer.entry(PROGRAM, &program)?;
    // PyTorch asks for this entry, and takes an empty one as none.
    writer.entry("data/sample_inputs/model.pt", b"")?;
    let is_constant = |stored: &StoredTensor| stored.role == TensorRole::Constant;
    let state = |(index, stored): (usize, &StoredTensor)| {
        // What is one parameter stays one.
        let bytes = stored.tied_to.is_none().then(|| student.bytes(index, stored.tensor.dtype())).transpose()?;
        Ok((index, stored.clone(), bytes.unwrap_or_default()))
    };
    let tensors = || network.tensors().iter().enumerate();
    writer.tensors("weights", "weight", tensors().filter(|(_, stored)| !is_constant(stored)).map(state))?;
    let constants = tensors().filter(|(_, stored)| is_constant(stored) && !stored.is_computed());
    let constants = constants.map(|(index, stored)| Ok((index, stored.clone(), network.bytes(stored)?)));
    writer.tensors("constants", "tensor", constants)?;
    writer.zip.finish().map_err(archive_error)?.flush()?;
    Ok(())
}

/// The program in evaluation. It is read again before anybody gets it: one that still computes as in training would be
/// silently wrong.
fn program(network: &ExportedNetwork) -> Result<Vec<u8>> {
    let mut evaluation = EvaluationMode::of(network.graph())?;
    let document = network.archive()?.document(PROGRAM)?;
    let program = json_filter::filtered(&document, &RULES, &mut |node| evaluation.edit(node))?;
    let what = match network.mode_with(&program) {
        Ok(Mode::Evaluation | Mode::Either) if evaluation.is_complete() => {
            return with_new_classifier(network, program);
        }
        Ok(_) => "some of its operators would still compute as in training".to_owned(),
        Err(error) => error.to_string(),
    };
    refused(format!(
        "the network's program cannot be written as one that computes as in evaluation: {what}. Take the student as ONNX, \
         or as safetensors for the network's own code"
    ))
}

/// The program with the shapes of a student that was trained with a new classifier.
fn with_new_classifier(network: &ExportedNetwork, program: Vec<u8>) -> Result<Vec<u8>> {
    let resized = network.resized()?;
    if resized.is_empty() {
        return Ok(program);
    }
    let rules = json_filter::Rules { resized: &resized, ..SHAPES };
    json_filter::filtered(&program, &rules, &mut |_| Ok(json_filter::Edit::Kept))
}

/// Whether an expression is one of sizes, which PyTorch's reader evaluates: functions and flags of a short list,
/// numbers, and names of symbols in quotes.
fn is_size(expression: &str) -> bool {
    const KNOWN: [&str; 16] = [
        "Symbol",
        "Integer",
        "Rational",
        "Mul",
        "Add",
        "Pow",
        "Mod",
        "Max",
        "Min",
        "FloorDiv",
        "CeilDiv",
        "CleanDiv",
        "integer",
        "positive",
        "nonnegative",
        "True",
    ];
    let is_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    let is_known = |word: &str| KNOWN.contains(&word) || word.bytes().all(|byte| byte.is_ascii_digit());
    expression.split('\'').enumerate().all(|(at, part)| match at % 2 {
        0 => part.chars().all(|c| is_name(c) || " ,()=-".contains(c)) && part.split(|c| !is_name(c)).all(is_known),
        _ => part.chars().all(is_name),
    })
}

struct Writer<W: Write + Seek> {
    zip: ZipWriter<W>,
}

impl<W: Write + Seek> Writer<W> {
    fn start(&mut self, name: &str, bytes: usize, alignment: u16) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(bytes as u64 >= u64::from(u32::MAX))
            .with_alignment(alignment);
        self.zip.start_file(format!("{FOLDER}/{name}"), options).map_err(archive_error)
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.start(name, bytes.len(), 1)?;
        Ok(self.zip.write_all(bytes)?)
    }

    /// Writes tensors, given with their indices, each into an entry of its own, and the document that says where they
    /// are. One that is tied to another has the entry of that.
    fn tensors(
        &mut self,
        folder: &str,
        prefix: &str,
        tensors: impl Iterator<Item = Result<(usize, StoredTensor, Vec<u8>)>>,
    ) -> Result<()> {
        let mut members = Vec::new();
        let mut paths: HashMap<usize, String> = HashMap::new();
        for tensor in tensors {
            let (index, stored, bytes) = tensor?;
            let next = format!("{prefix}_{}", paths.len());
            let path = paths.entry(stored.tied_to.unwrap_or(index)).or_insert(next).clone();
            if stored.tied_to.is_none() {
                self.start(&format!("data/{folder}/{path}"), bytes.len(), ALIGNMENT)?;
                self.zip.write_all(&bytes)?;
            }
            let name = stored.tensor.name();
            let sizes = |sizes: &[u64]| sizes.iter().map(|size| json!({"as_int": size})).collect::<Vec<_>>();
            let entry = json!({
                "path_name": path,
                "is_param": stored.role == TensorRole::Parameter,
                "use_pickle": false,
                "tensor_meta": {
                    "dtype": number_of(stored.tensor.dtype()),
                    "sizes": sizes(stored.tensor.shape()),
                    "requires_grad": stored.trained,
                    "device": {"type": "cpu", "index": null},
                    "strides": sizes(&strides(stored.tensor.shape())),
                    "storage_offset": {"as_int": 0},
                    "layout": STRIDED,
                },
            });
            members.push(format!("{}:{entry}", json!(name)));
        }
        // In the order of the state dict, which a map would not keep.
        let document = format!("{{\"config\":{{{}}}}}", members.join(","));
        self.entry(&format!("data/{folder}/model_{folder}_config.json"), document.as_bytes())
    }
}

/// Strides of a tensor in row-major order.
fn strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for dimension in (1..shape.len()).rev() {
        strides[dimension - 1] = strides[dimension] * shape[dimension].max(1);
    }
    strides
}

/// PyTorch's number of an element type.
fn number_of(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::U8 => 1,
        Dtype::I8 => 2,
        Dtype::I16 => 3,
        Dtype::I32 => 4,
        Dtype::I64 => 5,
        Dtype::F16 => 6,
        Dtype::F32 => 7,
        Dtype::F64 => 8,
        Dtype::Bool => 12,
        Dtype::Bf16 => 13,
    }
}

fn archive_error(error: zip::result::ZipError) -> Error {
    match error {
        zip::result::ZipError::Io(error) => Error::Io(error),
        other => Error::Refused(format!("the archive cannot be written: {other}")),
    }
}
