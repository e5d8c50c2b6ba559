//! Promise: layouts that people have are read as they are, and what is guessed or passed over is said.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use distillery_core::dataset::{Dataset, DatasetFormat, DatasetOptions, Discovered, discover, is_name, resolve};
use image::{ImageFormat, Rgb, RgbImage};
use parquet::basic::Compression;

use super::parquet::{Column, png, write};
use super::support::{encode, open, plain, put, read, reds, refusal};

/// A parquet file of three images.
fn shard(at: &Path) {
    let images = Column::Bytes((0..3).map(|row| Some(png(row, 0))).collect(), 1);
    let labels = Column::Int64(vec![Some(0), Some(1), Some(0)]);
    let schema = "message schema { optional binary image; optional int64 label; }";
    write(at, schema, None, vec![vec![images, labels]], Compression::UNCOMPRESSED);
}

fn with_links(at: &Path) -> Dataset {
    Dataset::open(at, &DatasetOptions { follow_links: true, ..DatasetOptions::default() }).unwrap()
}

#[test]
fn images_in_directories_below_a_class_are_read_in_torchvisions_order() {
    let dir = tempfile::tempdir().unwrap();
    for (path, red) in [("b.png", 1), ("more/a.png", 3), ("more/deep/z.png", 4), ("Z/a.png", 2), ("__MACOSX/x.png", 9)]
    {
        put(&dir.path().join("train/cat").join(path), &plain(red));
    }
    put(&dir.path().join("test/cat/a.png"), &plain(5));
    put(&dir.path().join("__MACOSX/cat/._a.png"), b"debris");
    let dataset = open(dir.path()).unwrap();
    assert_eq!((dataset.splits(), reds(&dataset, "train")), (vec!["test".into(), "train".into()], vec![1, 2, 3, 4]));
    assert!(dataset.notes().is_empty(), "{:?}", dataset.notes());
}

#[test]
fn every_format_of_torchvisions_image_folder_is_read_and_other_files_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let image = |format| encode(RgbImage::from_pixel(3, 3, Rgb([200, 9, 9])), format);
    for (ending, format) in [
        ("png", ImageFormat::Png),
        ("webp", ImageFormat::WebP),
        ("bmp", ImageFormat::Bmp),
        ("tif", ImageFormat::Tiff),
        ("TIFF", ImageFormat::Tiff),
        ("ppm", ImageFormat::Pnm),
    ] {
        put(&dir.path().join("train/a").join(format!("1.{ending}")), &image(format));
    }
    for noise in ["1.gif", "2.gif", "notes.txt", "Thumbs.db"] {
        put(&dir.path().join("train/a").join(noise), b"noise");
    }
    put(&dir.path().join("train/loose.png"), &plain(1));
    let dataset = open(dir.path()).unwrap();
    assert_eq!(reds(&dataset, "train"), [200; 6]);
    let [files, loose] = &*dataset.notes() else { panic!("{:?}", dataset.notes()) };
    assert!(files.starts_with("3 files (.gif 2, .txt 1) of the train split are passed over: only *.png"), "{files}");
    assert_eq!(loose, "1 image directly in train is passed over: it is in no class");
}

#[test]
fn image_files_without_content_are_counted() {
    let base = tempfile::tempdir().unwrap();
    let at = base.path().join("set");
    put(&at.join("train/a/1.png"), &plain(1));
    for empty in ["train/a/2.png", "train/b/1.png", "test/a/1.png"] {
        put(&at.join(empty), b"");
    }
    let Discovered { datasets, .. } = discover(base.path(), false).unwrap();
    assert_eq!(
        datasets[0].notes,
        [
            "1 image of the test split is an empty file, test/a/1.png: jobs leave it out",
            "2 images of the train split are empty files, such as train/a/2.png: jobs leave them out"
        ]
    );
}

#[test]
fn splits_have_any_usual_spelling() {
    for (train, eval) in [("Train", "Test"), ("training", "valid"), ("TRAIN", "dev"), ("train", "evaluation")] {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join(train).join("a/1.png"), &plain(1));
        put(&dir.path().join(eval).join("a/1.png"), &plain(2));
        let dataset = open(dir.path()).unwrap();
        assert_eq!(dataset.train_split(None).unwrap(), train);
        assert_eq!(dataset.train_split(Some(&train.to_lowercase())).unwrap(), train);
        assert_eq!(dataset.eval_split(None).unwrap(), eval);
    }
}

#[test]
fn one_directory_too_many_is_looked_through() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("flowers/train/a/1.png"), &plain(1));
    put(&dir.path().join("README.md"), b"flowers");
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.splits(), ["train"]);
    assert_eq!(dataset.notes(), ["the data set is the subdirectory flowers"]);
    put(&dir.path().join("trees/train/a/1.png"), &plain(1));
    let message = refusal(dir.path());
    assert!(message.contains("each of flowers, trees is a data set"), "{message}");
}

#[test]
fn what_is_not_recognised_is_described() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.zip", "b.zip", "c.txt"] {
        put(&dir.path().join(name), b"");
    }
    for name in ["one", "two", "three", "four", "five", "six"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let message = refusal(dir.path());
    let found = "it holds the directories five, four, one, six, three and 1 more and 3 files (.zip 2, .txt 1); unpack the archive";
    assert!(message.contains(found), "{message}");
}

#[test]
fn hugging_faces_repositories_are_read_as_they_are_cloned() {
    for paths in [
        ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
        ["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
        ["train/0000.parquet", "test/0000.parquet"],
        ["data/train/part-1.parquet", "data/test/part-1.parquet"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("README.md"), b"---\n");
        put(&dir.path().join(".gitattributes"), b"*.parquet filter=lfs\n");
        paths.iter().for_each(|path| shard(&dir.path().join(path)));
        let dataset = open(dir.path()).unwrap();
        assert_eq!(dataset.splits(), ["test", "train"], "{paths:?}");
        assert_eq!(dataset.labels("test").unwrap(), [0, 1, 0]);
    }
}

#[test]
fn links_out_of_a_data_set_are_followed_where_the_operator_says_so() {
    // Hugging Face's cache: files of a snapshot are links to blobs.
    let cache = tempfile::tempdir().unwrap();
    shard(&cache.path().join("blobs/b10b"));
    put(&cache.path().join("blobs/readme"), b"---\n");
    let snapshot = cache.path().join("snapshots/0123");
    fs::create_dir_all(snapshot.join("data")).unwrap();
    symlink("../../blobs/readme", snapshot.join("README.md")).unwrap();
    for split in ["train", "test"] {
        symlink("../../../blobs/b10b", snapshot.join(format!("data/{split}-00000-of-00001.parquet"))).unwrap();
    }
    let message = refusal(&snapshot);
    assert!(
        message.contains("leads out of the data set's directory") && message.contains("--follow-links"),
        "{message}"
    );
    assert_eq!(with_links(&snapshot).labels("train").unwrap(), [0, 1, 0]);

    let outside = tempfile::tempdir().unwrap();
    put(&outside.path().join("1.png"), &plain(9));
    for (name, content) in
        [("train-images-idx3-ubyte", "x"), ("data_batch_1.bin", "x"), ("train/a", ""), ("metadata.csv", "x")]
    {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("train")).unwrap();
        put(&outside.path().join("file"), content.as_bytes());
        let target = if content.is_empty() { outside.path().to_owned() } else { outside.path().join("file") };
        symlink(target, dir.path().join(name)).unwrap();
        assert!(refusal(dir.path()).contains("leads out of the data set's directory"), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::remove_file(outside.path().join("file")).unwrap();
    fs::create_dir_all(dir.path().join("train")).unwrap();
    symlink(outside.path(), dir.path().join("train/a")).unwrap();
    assert_eq!(reds(&with_links(dir.path()), "train"), [9]);
    // Links that would go round are noticed.
    symlink(dir.path(), outside.path().join("round")).unwrap();
    let dataset = with_links(dir.path());
    assert_eq!(reds(&dataset, "train"), [9]);
    assert_eq!(dataset.notes(), ["the link a/round/train/a is not followed: it leads to a directory around it"]);
}

/// A pickle of CIFAR's Python version, as Python 2 writes it.
fn pickle(labels: &str, values: &[u8], pixels: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03".to_vec();
    file.extend([b'U', labels.len() as u8]);
    file.extend(labels.as_bytes());
    file.extend(b"q\x04]q\x05(");
    file.extend(values.iter().flat_map(|value| [b'K', *value]));
    file.extend(b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01K");
    file.push(values.len() as u8);
    file.extend(b"M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    file.extend((pixels.len() as u32).to_le_bytes());
    file.extend(pixels);
    file.extend(b"tbU\x09filenamesq\x0c]q\x0d(U\x05a.pngU\x05b.pngeu.");
    file
}

fn names_pickle(key: &str, names: &[String]) -> Vec<u8> {
    let mut file = b"\x80\x02}q\x01(".to_vec();
    let text = |text: &str| [&[b'U', text.len() as u8], text.as_bytes()].concat();
    file.extend(text(key));
    file.extend(b"]q\x02(");
    file.extend(names.iter().flat_map(|name| text(name)));
    file.extend(b"eu.");
    file
}

#[test]
fn torchvisions_downloads_of_cifar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("cifar-10-batches-py");
    let pixels: Vec<u8> = [10_u8, 20].iter().flat_map(|red| (0..3072).map(move |at| red + (at / 1024) as u8)).collect();
    for (name, labels) in [("data_batch_1", [7, 3]), ("data_batch_2", [1, 9]), ("test_batch", [0, 2])] {
        put(&at.join(name), &pickle("labels", &labels, &pixels));
    }
    let names: Vec<String> = (0..10).map(|class| format!("class {class}")).collect();
    put(&at.join("batches.meta"), &names_pickle("label_names", &names));
    put(&at.join("readme.html"), b"");
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.format(), DatasetFormat::Cifar10);
    assert_eq!((dataset.labels("train").unwrap(), dataset.labels("test").unwrap()), (vec![7, 3, 1, 9], vec![0, 2]));
    assert_eq!(dataset.classes().names.as_ref().unwrap(), &names);
    let planes: Vec<u8> = [20, 21, 22].iter().flat_map(|&value| [value; 1024]).collect();
    assert_eq!(read(&dataset, "train", 3, 32).unwrap(), planes);
    assert_eq!(dataset.summary().unwrap().images, 6);
    fs::remove_file(at.join("data_batch_1")).unwrap();
    assert!(refusal(dir.path()).contains("data_batch_1 is missing"));

    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("cifar-100-python");
    for name in ["train", "test"] {
        put(&at.join(name), &pickle("fine_labels", &[99, 0], &pixels));
    }
    put(&at.join("meta"), &names_pickle("coarse_label_names", &names));
    assert!(refusal(dir.path()).contains("no list \"fine_label_names\""));
    fs::remove_file(at.join("meta")).unwrap();
    put(&at.join("meta"), &names_pickle("fine_label_names", &vec!["x".to_owned(); 100]));
    let dataset = open(dir.path()).unwrap();
    assert_eq!((dataset.format(), dataset.labels("train").unwrap()), (DatasetFormat::Cifar100, vec![99, 0]));
}

#[test]
fn a_damaged_or_hostile_pickle_is_refused_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data_batch_1");
    let whole = pickle("labels", &[7, 3], &[5; 6144]);
    let labels = || open(dir.path()).and_then(|dataset| dataset.labels("train"));
    put(&path, &whole);
    assert_eq!(labels().unwrap(), [7, 3]);
    for length in (0..whole.len()).step_by(11) {
        put(&path, &whole[..length]);
        let error = labels().unwrap_err();
        assert!(error.is_users() && error.to_string().contains("data_batch_1"), "{length}: {error}");
    }
    put(&path, b"\x80\x02cos\nsystem\n(U\x04true\x85R.");
    assert!(labels().unwrap_err().to_string().contains("calls os.system, which is not needed"));
    put(&path, &pickle("labels", &[7, 3], &[5; 3072]));
    assert!(labels().unwrap_err().to_string().contains("2 labels, but 3072 bytes of pixels"));
    put(&path, &pickle("labels", &[7, 10], &[5; 6144]));
    assert!(labels().unwrap_err().to_string().contains("has label 10, out of range"));
    let mut random = 0x5eed_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % end
    };
    for _ in 0..2_000 {
        let mut bytes = whole.clone();
        for _ in 0..=below(4) {
            let at = below(220);
            bytes[at] = below(256) as u8;
        }
        put(&path, &bytes);
        drop(labels());
    }
}

#[test]
fn zeros_behind_a_gzip_stream_are_padding() {
    use std::io::Write;
    let gzip = |content: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(content).unwrap();
        packed.finish().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &[3, 4]].concat();
    put(&dir.path().join("train-images-idx3-ubyte.gz"), &gzip(&images));
    let parts = [gzip(&[0, 0, 8, 1, 0, 0, 0, 2]), vec![0; 100], gzip(&[1, 0]), vec![0; 70_000]];
    put(&dir.path().join("train-labels-idx1-ubyte.gz"), &parts.concat());
    assert_eq!(open(dir.path()).unwrap().labels("train").unwrap(), [1, 0]);
    put(&dir.path().join("train-labels-idx1-ubyte.gz"), &[&parts.concat()[..], b"more"].concat());
    assert!(refusal(dir.path()).contains("train-labels-idx1-ubyte.gz: is"));
    // FashionMNIST as torchvision keeps it: packed and unpacked.
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("FashionMNIST/raw");
    put(&raw.join("train-images-idx3-ubyte"), &images);
    put(&raw.join("train-images-idx3-ubyte.gz"), &gzip(&images));
    put(&raw.join("train-labels-idx1-ubyte"), &[0, 0, 8, 1, 0, 0, 0, 2, 1, 0]);
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.labels("train").unwrap(), [1, 0]);
    let passed_over = "train-images-idx3-ubyte.gz is passed over, because its split has other files too";
    assert_eq!(dataset.notes(), ["the data set is the subdirectory FashionMNIST", passed_over]);
}

#[test]
fn links_that_lead_nowhere_are_unusable_data_sets() {
    let base = tempfile::tempdir().unwrap();
    for (target, link) in
        [("round", "round"), ("gone", "broken"), ("file", "to-a-file"), ("set", "linked"), ("x", ".x")]
    {
        symlink(target, base.path().join(link)).unwrap();
    }
    put(&base.path().join("file"), b"");
    put(&base.path().join("set/train/a/1.png"), &plain(1));
    let Discovered { datasets, unusable } = discover(base.path(), false).unwrap();
    let names: Vec<&str> = datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    assert_eq!(names, ["linked", "set"]);
    let names: Vec<&str> = unusable.iter().map(|directory| directory.name.as_str()).collect();
    assert_eq!(names, ["broken", "round"]);
    assert!(unusable.iter().all(|directory| directory.reason.starts_with("it is a broken link (")), "{unusable:?}");
}

#[test]
fn what_is_listed_can_be_named() {
    let base = tempfile::tempdir().unwrap();
    for name in ["my data", "c++", "日本", "_x", "back\\slash", " space", "line\nbreak"] {
        put(&base.path().join(name).join("train/a/1.png"), &plain(1));
    }
    let Discovered { datasets, unusable } = discover(base.path(), false).unwrap();
    let names: Vec<&str> = datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    assert_eq!(names, ["_x", "c++", "my data", "日本"]);
    assert!(names.iter().all(|name| is_name(name) && resolve(base.path(), name).is_ok()));
    let reasons: Vec<&str> = unusable.iter().map(|directory| directory.reason.as_str()).collect();
    assert!(
        reasons.len() == 3 && reasons.iter().all(|reason| reason.starts_with("its name cannot be written in a job"))
    );
}
