//! Promise: what lies beside the weights does not keep them from being read, and what is passed over is named.

use std::io::Write;

use distillery_core::checkpoint::{Checkpoint, Error};

use super::programs::{dict, int, legacy_with, stored, text, typed, zip};

const ONE: [u8; 4] = 1.5_f32.to_le_bytes();

/// A file of each format with these objects, and the floats of one storage, `0`.
fn files(program: &[u8]) -> [Vec<u8>; 2] {
    [zip(program, &[("0", &ONE)]), legacy_with(program, &[("0", 1, &ONE)])]
}

/// Asserts that both formats read `w` as 1.5, and returns the notes.
fn notes(program: &[u8]) -> String {
    let [one, two] = files(program).map(|file| {
        let read = Checkpoint::from_bytes(file).unwrap();
        assert_eq!(read.floats(read.get("w").unwrap()).unwrap(), [1.5]);
        assert_eq!(read.tensors().len(), 1);
        read.notes().join("\n")
    });
    assert_eq!(one, two);
    one
}

fn beside(neighbour: &[u8]) -> Vec<u8> {
    dict(&[("state_dict", &dict(&[("w", &stored("0", 1))])), ("other", neighbour)])
}

#[test]
fn objects_of_unknown_classes_are_passed_over_and_named() {
    let attributes = dict(&[("lr", &int(1))]);
    for neighbour in [
        // Lightning's hyper-parameters: a dictionary of the user's own class.
        [b"ctrain_config\nSettings\n)\x81".as_slice(), &text("lr"), b"G?\xb9\x99\x99\x99\x99\x99\x9as"].concat(),
        // An object with attributes.
        [b"ctrain_config\nSettings\n)\x81".as_slice(), &attributes, b"b"].concat(),
        // Made by a call, and called in turn.
        b"ctrain_config\nSettings\n)R)R".to_vec(),
        // A list of the user's own class.
        b"ctrain_config\nSettings\n)\x81(K\x01K\x02eK\x03a".to_vec(),
        // With keyword arguments, and in the ways of old protocols.
        b"ctrain_config\nSettings\n)}\x92".to_vec(),
        b"(K\x01itrain_config\nSettings\n".to_vec(),
        b"(ctrain_config\nSettings\nK\x01o".to_vec(),
        b"ccopy_reg\n_reconstructor\n(ctrain_config\nSettings\nc__builtin__\nobject\nNtR".to_vec(),
    ] {
        let notes = notes(&beside(&neighbour));
        assert!(notes.contains("nothing of them was run: train_config.Settings"), "{notes}");
    }
    // Plain values that every script stores need no words.
    assert_eq!(notes(&beside(b"cargparse\nNamespace\n)\x81}b")), "");
    // A file can name thousands.
    let many: Vec<u8> =
        (0..3000).flat_map(|class| [format!("cm\nC{class}\n").as_bytes(), b")\x81a"].concat()).collect();
    let notes = notes(&beside(&[b"]".as_slice(), &many].concat()));
    assert!(notes.contains("m.C0") && notes.contains("and 2995 more") && notes.len() < 300, "{notes}");
}

/// An object of a class with attributes, which can be named again as number `memo`.
fn object(class: &str, memo: u8, attributes: &[(&str, &[u8])]) -> Vec<u8> {
    [b"c".as_slice(), class.as_bytes(), b"\n)\x81q", &[memo], &dict(attributes), b"b"].concat()
}

#[test]
fn nested_settings_that_name_each_other_are_passed_over() {
    // As omegaconf stores a configuration: nodes with types as values, and each with its parent.
    let node = object("omegaconf.nodes\nAnyNode", 201, &[("_val", &int(3)), ("_parent", b"h\xc8")]);
    let metadata = object(
        "omegaconf.base\nContainerMetadata",
        202,
        &[("ref_type", b"ctyping\nAny\n"), ("object_type", b"c__builtin__\ndict\n")],
    );
    let content = dict(&[("epochs", &node)]);
    let settings = object("omegaconf.dictconfig\nDictConfig", 200, &[("_metadata", &metadata), ("_content", &content)]);
    let notes = notes(&beside(&settings));
    assert!(notes.contains("nothing of them was run: ") && notes.contains("omegaconf."), "{notes}");
}

#[test]
fn a_state_dict_of_an_unknown_dictionary_class_is_read() {
    let weights = [b"ceasydict\nEasyDict\n)\x81".as_slice(), &text("w"), &stored("0", 1), b"s"].concat();
    assert!(notes(&dict(&[("model", &weights)])).contains("easydict.EasyDict"));
    assert!(notes(&weights).contains("easydict.EasyDict"));
}

#[test]
fn a_file_with_nothing_but_an_unknown_object_is_refused_by_name() {
    let model = [b"c__main__\nNet\n)\x81".as_slice(), &dict(&[("training", b"\x88")]), b"b"].concat();
    for program in [model.clone(), dict(&[("net", &model), ("acc", &int(93))])] {
        for file in files(&program) {
            let error = Checkpoint::from_bytes(file).unwrap_err();
            assert!(matches!(&error, Error::Refused { name } if name == "__main__.Net"), "{error}");
        }
    }
    // Before PyTorch 1.6 the class came with its source code.
    let class =
        [b"(".as_slice(), &text("module"), b"c__main__\nNet\n", &text("net.py"), &text("class Net"), b"tQ"].concat();
    for file in files(&[&class[..], b")\x81}b"].concat()) {
        let error = Checkpoint::from_bytes(file).unwrap_err();
        assert!(matches!(&error, Error::Refused { name } if name == "__main__.Net"), "{error}");
    }
}

/// `torch.tensor([…], dtype=dtype)` of a type that has no class of storages.
fn newer(key: &str, dtype: &str) -> Vec<u8> {
    let storage =
        [b"((".as_slice(), &text("storage"), b"ctorch.storage\nUntypedStorage\n", &text(key), &text("cpu"), b"K\x04tQ"]
            .concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v3\n".as_slice(),
        &storage,
        b"K\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)R",
        format!("ctorch\n{dtype}\n").as_bytes(),
        b"tR",
    ]
    .concat()
}

const SPARSE: &[u8] =
    b"ctorch._utils\n_rebuild_sparse_tensor\n(ctorch.serialization\n_get_layout\nX\x10\0\0\0torch.sparse_coo\x85R)tR";

#[test]
fn tensors_of_kinds_that_are_not_read_are_left_out_and_named() {
    let w = stored("0", 1);
    let of = |other: &[u8]| dict(&[("state_dict", &dict(&[("w", &w), ("mask", other)]))]);
    for (other, class, bytes, what) in [
        (newer("1", "uint16"), 4, &[0; 4][..], "mask is of type uint16"),
        (newer("1", "float8_e4m3fn"), 4, &[0; 4], "mask is of type float8_e4m3fn"),
        (typed("1", "ComplexFloatStorage", 2), 2, &[0; 16], "mask is complex (torch.ComplexFloatStorage)"),
        (typed("1", "QInt8Storage", 2), 2, &[0; 2], "mask is quantised (torch.QInt8Storage)"),
    ] {
        let files = [
            zip(&of(&other), &[("0", &ONE), ("1", bytes)]),
            legacy_with(&of(&other), &[("1", class, bytes), ("0", 1, &ONE)]),
        ];
        for file in files {
            let read = Checkpoint::from_bytes(file).unwrap();
            assert_eq!(read.floats(read.get("w").unwrap()).unwrap(), [1.5], "{what}");
            assert!(read.notes().iter().any(|note| note.contains(what)), "{:?}", read.notes());
        }
        // Where there is nothing else, the file cannot be used.
        let error = Checkpoint::from_bytes(zip(&dict(&[("mask", &other)]), &[("1", bytes)])).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(why) if why.contains(what)), "{error}");
    }
    assert!(notes(&of(SPARSE)).contains("mask is sparse (torch._utils._rebuild_sparse_tensor)"));
    // Beside the state dict, they are nobody's business.
    assert_eq!(notes(&beside(SPARSE)), "");
    let error = Checkpoint::from_bytes(zip(&dict(&[("mask", SPARSE)]), &[])).unwrap_err();
    assert!(error.to_string().contains("_rebuild_sparse_tensor"), "{error}");
}

#[test]
fn one_of_several_state_dicts_can_be_chosen() {
    let one = dict(&[("w", &stored("0", 1))]);
    let two = dict(&[("w", &stored("1", 1))]);
    let program = dict(&[("state_dict_ema", &two), ("state_dict", &one), ("best_acc1", b"G@S\x1333333")]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&zip(&program, &[("0", &ONE), ("1", &2.0_f32.to_le_bytes())])).unwrap();
    let read = |key| {
        let read = Checkpoint::open_state_dict(file.path(), key)?;
        let value = read.floats(read.get("w").unwrap())?[0];
        Ok::<_, Error>((value, read.notes().join("\n"), read.recorded_accuracy()))
    };
    let (value, notes, accuracy) = read(None).unwrap();
    assert_eq!(value, 1.5);
    assert!(notes.contains("from its key state_dict; it has others: state_dict_ema"), "{notes}");
    assert_eq!(accuracy, Some(76.3));
    assert_eq!(read(Some("state_dict_ema")).unwrap().0, 2.0);
    assert_eq!(read(Some("state_dict")).unwrap().0, 1.5);
    let error = read(Some("swa")).unwrap_err().to_string();
    assert!(error.contains("nothing in it is under the key swa"), "{error}");
}

#[test]
fn averaged_weights_are_read_where_there_are_no_others() {
    for key in ["ema_model", "state_dict_ema", "model_ema", "ema_state_dict"] {
        assert_eq!(notes(&dict(&[("epoch", &int(3)), (key, &dict(&[("w", &stored("0", 1))]))])), "", "{key}");
    }
    let unusual = dict(&[("epoch", &int(3)), ("my_net", &dict(&[("w", &stored("0", 1))]))]);
    assert!(notes(&unusual).contains("read from its key my_net"));
}
