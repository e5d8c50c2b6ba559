//! Promise: nothing in a pickle is ever called, and no file takes much more memory than its size.

use std::fs;
use std::io::Write;

use distillery_core::checkpoint::{Checkpoint, Error};
use distillery_core::exported::{ExportedNetwork, is_exported};

use super::programs::{bare_tensor, legacy, tensor, text, zip};

use crate::support::is_alone;

/// Asserts that both formats refuse the program with the same error, and returns it.
fn refusal(program: &[u8]) -> Error {
    let [one, two] = [legacy(program), zip(program, &[])].map(|file| Checkpoint::from_bytes(file).unwrap_err());
    assert_eq!(one.to_string(), two.to_string());
    assert!(one.is_users());
    one
}

fn name_of(program: &[u8]) -> String {
    match refusal(program) {
        Error::Refused { name } => name,
        other => panic!("{other}"),
    }
}

#[test]
fn functions_are_refused_by_name() {
    let marker = tempfile::NamedTempFile::new().unwrap();
    let command = format!("rm -f {}", marker.path().display());
    let call = |global: &[u8]| [global, b"(", &text(&command), b"tR"].concat();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("runpy", "_run_code"),
        ("torch.hub", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "load"),
        ("torch.jit._serialization", "load"),
        ("numpy.core.multiarray", "fromstring"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("pickle", "loads"),
        ("_codecs", "decode"),
        ("collections", "namedtuple"),
        ("torch.optim.sgd", "SGD"),
    ] {
        let expected = format!("{module}.{name}");
        let by_line = format!("c{module}\n{name}\n").into_bytes();
        assert_eq!(name_of(&call(&by_line)), expected);
        let by_stack = [text(module), text(name), b"\x93".to_vec()].concat();
        assert_eq!(name_of(&call(&by_stack)), expected);
    }
    let message = refusal(&call(b"cos\nsystem\n")).to_string();
    assert!(message.starts_with("refused: the file wants to run os.system;"), "{message}");
    assert!(marker.path().exists());
}

#[test]
fn other_ways_to_call_are_refused_by_name() {
    let argument = text("true");
    // REDUCE of a name that came through the memo.
    assert_eq!(name_of(&[b"cos\nsystem\nq\x000h\x00(", &argument[..], b"tR"].concat()), "os.system");
    // NEWOBJ, NEWOBJ_EX, INST, OBJ, extension registry.
    assert_eq!(name_of(&[b"csubprocess\nPopen\n(", &argument[..], b"t\x81"].concat()), "subprocess.Popen");
    assert_eq!(name_of(&[b"csubprocess\nPopen\n(", &argument[..], b"t}\x92"].concat()), "subprocess.Popen");
    assert_eq!(name_of(&[b"(", &argument[..], b"ios\nsystem\n"].concat()), "os.system");
    assert_eq!(name_of(&[b"(cos\nsystem\n", &argument[..], b"o"].concat()), "os.system");
    assert_eq!(name_of(b"\x82\x01"), "copyreg._extension_registry");
    // BUILD calls __setstate__ of what it is given.
    assert_eq!(name_of(b"cbuiltins\ntype\n}b"), "builtins.type.__setstate__");
    // The type of a storage, and the function inside a rebuilt tensor, are names too.
    assert_eq!(
        name_of(&[b"(", &text("storage")[..], b"cos\nFloatStorage\nX\0\0\0\0NK\x01tQ"].concat()),
        "os.FloatStorage"
    );
    assert_eq!(name_of(b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN)NtR"), "os.system");
    // A name that is not called is harmless.
    assert!(matches!(refusal(b"cos\nsystem\n"), Error::NoStateDict(_)));
    // What is called must be a name.
    for program in [&b"K\x01)R"[..], b"}})R", b"N)\x81", b"cos\nsystem\nNR"] {
        assert!(matches!(refusal(program), Error::Corrupt(_)));
    }
}

#[test]
fn a_pickle_that_is_not_torchs_is_refused_before_anything() {
    let error = Checkpoint::from_bytes(b"\x80\x02cos\nsystem\n(X\x04\0\0\0true\x85tR.".to_vec()).unwrap_err();
    assert!(matches!(error, Error::Refused { ref name } if name == "os.system"), "{error}");
    let error = Checkpoint::from_bytes(b"\x80\x04K\x01.".to_vec()).unwrap_err();
    assert!(matches!(error, Error::NotACheckpoint { .. }), "{error}");
    let error = Checkpoint::from_bytes(b"cos\nsystem\n(S'true'\ntR.".to_vec()).unwrap_err();
    assert!(matches!(error, Error::NotACheckpoint { .. }), "{error}");
}

#[test]
fn a_name_in_a_message_is_short_and_plain() {
    let name = name_of(format!("c\u{1b}[2J{}\nf\n)R", "m".repeat(10_000)).as_bytes());
    assert!(name.len() < 300 && !name.contains('\u{1b}'), "{name}");
}

#[test]
fn deep_nesting_is_refused() {
    for nested in [b"(".as_slice(), b"]", b"}", b"(((]", b"K\x01", b")", b"(K\x01"] {
        let error = refusal(&nested.repeat(1_500_000 / nested.len()));
        assert!(matches!(error, Error::Limit(_)), "{error}");
    }
    // Nested once more by each instruction: the reader must not recurse.
    let deeper = [b")".as_slice(), &b"\x85".repeat(1_000_000)].concat();
    assert!(matches!(refusal(&deeper), Error::NoStateDict(_)));
}

#[test]
fn bombs_of_references_stay_small() {
    // Each list holds the last one twice: 2^50000 elements if they were copied.
    let mut program = b"]q\x00".to_vec();
    for _ in 0..50_000 {
        program.extend(b"0](h\x00h\x00eq\x00");
    }
    assert!(matches!(refusal(&program), Error::NoStateDict(_)));
    // A list that holds itself, and a dictionary that wraps itself.
    assert!(matches!(refusal(b"]q\x00h\x00a"), Error::NoStateDict(_)));
    let program = [b"}q\x00".as_slice(), &text("model"), b"h\x00s"].concat();
    assert!(matches!(refusal(&program), Error::NoStateDict(_)));
    // The same long list of pairs copied into dictionary after dictionary.
    let mut program = b"]q\x00(".to_vec();
    program.extend(b"K\x01K\x02\x86".repeat(100_000));
    program.extend(b"e\x85q\x01");
    program.extend(b"0ccollections\nOrderedDict\nh\x01R".repeat(100_000));
    assert!(matches!(refusal(&program), Error::Limit(_)));
    // Memo entries at the far end.
    let mut program = b"N".to_vec();
    for index in 0..400_000_u32 {
        program.extend([b"r", &(u32::MAX - index).to_le_bytes()[..]].concat());
    }
    assert!(matches!(refusal(&program), Error::NoStateDict(_)));
    assert!(matches!(refusal(&b"N0".repeat(1_100_000)), Error::Limit(_)));
}

/// Peak memory of this process in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_costliest_programs_of_a_few_megabytes_stay_within_memory() {
    // In a process of its own, since the peak is that of the process.
    if !is_alone("checkpoint::hostile::the_costliest_programs_of_a_few_megabytes_stay_within_memory") {
        return;
    }
    let shape = [1; 16];
    let tensor = bare_tensor(1, 0, &shape, &shape);
    let arguments = &tensor["ctorch._utils\n_rebuild_tensor_v2\n".len()..tensor.len() - 1];
    let rebuild = [b"ctorch._utils\n_rebuild_tensor_v2\nq\x00", arguments, b"q\x010"].concat();
    for program in [
        // Containers and names, a new one for every byte or two.
        b"]0".repeat(990_000),
        b"(t0".repeat(660_000),
        b"c\n\n0".repeat(990_000),
        // One tensor of many dimensions, rebuilt from the memo.
        [&rebuild[..], &b"h\x00h\x01R0".repeat(490_000)].concat(),
        // A stack that once was large, and small tuples taken from it.
        [b"(".as_slice(), &b"N".repeat(90_000), b"1", &b"(t0".repeat(600_000)].concat(),
    ] {
        assert!(program.len() < 6 << 20);
        let error = refusal(&[&program[..], b"N"].concat());
        assert!(matches!(error, Error::NoStateDict(_)), "{error}");
    }
    assert!(peak_memory() < 1 << 30, "{} MiB", peak_memory() >> 20);
}

#[test]
fn claimed_lengths_take_no_memory() {
    for claim in [
        &b"X\xff\xff\xff\xff"[..],
        b"T\xff\xff\xff\xff",
        b"B\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8a\xff",
        b"cos",
        b"cos\nsystem",
    ] {
        assert!(matches!(refusal(claim), Error::Truncated(_)));
    }
}

#[test]
fn unsound_programs_are_refused() {
    for program in [
        &b""[..],
        b"0",
        b"1",
        b"t",
        b"e",
        b"u",
        b"s",
        b"a",
        b"\x85",
        b"\x87",
        b"R",
        b"b",
        b"Q",
        b"q\x00",
        b"h\x07",
        b"j\x00\x00\x00\x01",
        b"}(K\x01u",
        b"K\x01K\x02a",
        b"K\x01K\x02K\x03s",
        b"K\x01(\x85",
        b"K\x01(0",
        b"\x93",
        b"I1\n",
        b"\xff",
        b"K\x01K\x01b",
        b"]}b",
        b"(K\x01tQ",
        b"\x80\x07",
        b"K\x01\x94h\x01",
    ] {
        let error = refusal(program);
        assert!(matches!(error, Error::Corrupt(_)), "{program:?}: {error}");
    }
}

#[test]
fn shapes_and_strides_must_lie_within_the_storage() {
    let bytes: Vec<u8> = (0..6_u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let read = |elements, offset, shape: &[i64], strides: &[i64]| {
        Checkpoint::from_bytes(zip(&tensor(elements, offset, shape, strides), &[("0", &bytes)]))
    };
    let sound = read(6, 1, &[2, 2], &[1, 2]).unwrap();
    assert_eq!(sound.floats(sound.get("w").unwrap()).unwrap(), [1.0, 3.0, 2.0, 4.0]);
    let empty = read(6, i64::MAX, &[0, i64::MAX, i64::MAX], &[i64::MAX, i64::MAX, i64::MAX]).unwrap();
    assert_eq!(empty.floats(empty.get("w").unwrap()).unwrap(), [0.0; 0]);
    let one = read(6, 5, &[1, 1, 1], &[i64::MAX, i64::MAX, i64::MAX]).unwrap();
    assert_eq!(one.floats(one.get("w").unwrap()).unwrap(), [5.0]);
    let one = read(6, 0, &[1, 2, 1, 3], &[i64::MAX, 3, i64::MAX, 1]).unwrap();
    assert_eq!(one.floats(one.get("w").unwrap()).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    for (elements, offset, shape, strides) in [
        (7, 0, &[1][..], &[1][..]),
        (6, 0, &[7], &[1]),
        (6, 1, &[6], &[1]),
        (6, 0, &[2], &[6]),
        (6, 0, &[2, 2], &[3, 3]),
        (6, 6, &[], &[]),
        (6, i64::MAX, &[1], &[1]),
        (i64::MAX, 0, &[1], &[1]),
        (6, 0, &[i64::MAX, i64::MAX], &[1, 1]),
        (6, 0, &[i64::MAX], &[i64::MAX]),
        (6, 0, &[i64::MAX, 2], &[0, 1]),
        (6, -1, &[1], &[1]),
        (-6, 0, &[1], &[1]),
        (6, 0, &[-1], &[1]),
        (6, 5, &[2], &[-1]),
        (6, 0, &[2, 2], &[1]),
        (6, 0, &[1; 17], &[1; 17]),
    ] {
        let error = read(elements, offset, shape, strides).unwrap_err();
        assert!(
            matches!(error, Error::Corrupt(_) | Error::Limit(_)),
            "{elements} {offset} {shape:?} {strides:?}: {error}"
        );
    }
    // A view may repeat one number, but must not become larger than its file.
    assert!(read(6, 0, &[1000], &[0]).is_ok());
    let error = read(6, 0, &[1 << 40], &[0]).unwrap_err();
    assert!(matches!(error, Error::Limit(_)), "{error}");
}

#[test]
fn tensors_may_share_a_storage_within_a_limit() {
    let bytes = vec![0; 4 << 20];
    let many = |count: usize| {
        let mut program = [b"}".as_slice(), &bare_tensor(1 << 20, 0, &[1 << 20], &[1]), b"q\x000"].concat();
        for index in 0..count {
            program.extend([&text(&format!("w{index}")), b"h\x00s".as_slice()].concat());
        }
        Checkpoint::from_bytes(zip(&program, &[("0", &bytes)]))
    };
    assert_eq!(many(3).unwrap().tensors().len(), 3);
    assert!(matches!(many(1000).unwrap_err(), Error::Limit(_)));
}

#[test]
fn a_key_may_not_come_twice() {
    let one = bare_tensor(1, 0, &[1], &[1]);
    let program = [b"}".as_slice(), &text("w"), &one, b"s", &text("w"), &one, b"s"].concat();
    let error = Checkpoint::from_bytes(zip(&program, &[("0", &[0; 4])])).unwrap_err();
    assert!(error.to_string().contains("two tensors named w"), "{error}");
}

#[test]
fn a_packed_entry_may_not_outgrow_its_file() {
    let pack = |length: usize| {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let packed = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        writer.start_file("archive/data.pkl", packed).unwrap();
        let elements = (length / 4) as i64;
        writer.write_all(&[b"\x80\x02", &tensor(elements, 0, &[elements], &[1])[..], b"."].concat()).unwrap();
        writer.start_file("archive/data/0", packed).unwrap();
        writer.write_all(&vec![0; length]).unwrap();
        Checkpoint::from_bytes(writer.finish().unwrap().into_inner())
    };
    assert!(pack(1 << 20).is_ok());
    assert!(matches!(pack(64 << 20).unwrap_err(), Error::Limit(_)));
}

#[test]
fn archives_that_are_not_torchs_or_are_ambiguous_are_refused() {
    let archive = |names: &[&str]| {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for name in names {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(b"\x80\x02}.").unwrap();
        }
        Checkpoint::from_bytes(writer.finish().unwrap().into_inner()).unwrap_err()
    };
    assert!(matches!(archive(&[]), Error::NotACheckpoint { .. }));
    assert!(matches!(archive(&["a.npy"]), Error::NotACheckpoint { .. }));
    assert!(matches!(archive(&["a/b/data.pkl"]), Error::NotACheckpoint { .. }));
    assert!(matches!(archive(&["xdata.pkl"]), Error::NotACheckpoint { .. }));
    assert!(matches!(archive(&["a/data.pkl", "b/data.pkl"]), Error::Corrupt(_)));
    assert!(matches!(archive(&["a/data.pkl", "a/byteorder"]), Error::Corrupt(_)));
    assert!(matches!(archive(&["data.pkl"]), Error::NoStateDict(_)));
}

#[test]
fn a_zip_archive_of_something_else_is_named_with_what_to_do() {
    for (names, says) in [
        (&["readme.txt", "run/Net.pth"][..], "a zip archive with run/Net.pth in it: unpack it, and name that file"),
        (&["cat/2.JPG", "cat/1.jpg"], "such as cat/1.jpg: data sets go to PUT /v1/datasets/NAME"),
        (&["arr_0.npy"], "a zip archive of NumPy's arrays, such as arr_0.npy: save model.state_dict()"),
        (&["readme.txt"], "without the data.pkl of torch.save or the models/model.json of torch.export.save"),
    ] {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for name in names {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        }
        let error = Checkpoint::from_bytes(writer.finish().unwrap().into_inner()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_file_of_nothing_but_signatures_is_refused() {
    // A reader that searched the file from each of them would take hours.
    for signature in [&b"PK\x05\x06"[..], b"PK\x03\x04", b"PK\x01\x02", b"PK\x06\x06", b"PK\x06\x07"] {
        let mut bytes = b"PK\x03\x04".to_vec();
        bytes.extend(signature.repeat(1 << 20));
        assert!(Checkpoint::from_bytes(bytes).is_err());
    }
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // Nobody ever writes to it.
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.pt2")).status().unwrap().success());
    std::os::unix::fs::symlink(at("pipe.pt2"), at("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (path, kind) in [
        (at("pipe.pt2"), "a pipe"),
        (at("link"), "a pipe"),
        (at("socket"), "a socket"),
        ("/dev/zero".into(), "a device"),
        (at(""), "a directory"),
    ] {
        for error in [Checkpoint::open(&path).unwrap_err(), Checkpoint::open_as_written(&path).unwrap_err()] {
            assert!(matches!(error, Error::Irregular(found) if found == kind) && error.is_users(), "{error}");
        }
        assert!(!is_exported(&path));
        let error = ExportedNetwork::open(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("it is {kind}, not a regular file")), "{error}");
    }
}
