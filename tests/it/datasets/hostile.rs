//! Archives that are not data sets, or are malicious.

use std::io::Write;

use distillery::archive::{self, Format, Limits};
use distillery::dataset_cache::DatasetCache;

use crate::support::api::{Answer, Api, checkpoint};
use crate::support::archives::{announced, ended, entry, gzip, pets, ppm, tar, zip, zip_with, zstd};
use crate::support::worker::files_below;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// All faults of a refused upload. Checks that nothing of it is left anywhere.
async fn refused(api: &Api, bytes: Vec<u8>) -> Vec<String> {
    let problem = api.upload_dataset("pets", bytes).await.problem(422);
    api.get("/v1/datasets/pets").await.problem(404);
    for place in ["spool", "storage/datasets", "dataset-cache"] {
        assert_eq!(files_below(&api.dir.path().join(place)), Vec::<String>::new(), "{place}");
    }
    let announced: i64 = sqlx::query_scalar("select count(*) from file_deletions where not is_decided")
        .fetch_one(&api.db.pool)
        .await
        .unwrap();
    assert_eq!(announced, 0);
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let faults: Vec<_> = errors.iter().map(|error| error["detail"].as_str().unwrap().to_owned()).collect();
    if faults.is_empty() { vec![problem["detail"].as_str().unwrap().to_owned()] } else { faults }
}

/// The only fault of an archive that has this entry in addition to a data set.
pub(super) async fn fault(api: &Api, bytes: Vec<u8>, expected: &str) {
    let faults = refused(api, bytes).await;
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert!(fault.contains(expected), "{expected:?} in {fault:?}");
}

fn tar_with(entries: Vec<Vec<u8>>) -> Vec<u8> {
    let good = pets().into_iter().map(|(path, content)| entry(path.as_bytes(), b'0', &content));
    ended(good.chain(entries).collect())
}

pub(super) fn zip_also(add: impl FnOnce(&mut zip::ZipWriter<std::io::Cursor<Vec<u8>>>)) -> Vec<u8> {
    let whole = zip(&pets());
    let mut writer = zip::ZipWriter::new_append(std::io::Cursor::new(whole)).unwrap();
    add(&mut writer);
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn a_network_is_sent_to_the_checkpoints_and_the_only_fault_is_said_once() {
    let api = Api::start().await;
    let saved = zip(&[("net/data.pkl", vec![128, 2]), ("net/version", b"3".to_vec()), ("net/data/0", vec![0; 8])]);
    let exported = zip(&[("net/archive_format", b"pt2".to_vec()), ("net/models/model.json", b"{}".to_vec())]);
    for bytes in [checkpoint("resnet8", 10), saved, exported] {
        let problem = api.upload_dataset("pets", bytes).await.problem(422);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("upload it to /v1/checkpoints"), "{problem}");
        assert!(problem.get("errors").is_none(), "{problem}");
    }
}

#[tokio::test]
async fn names_that_lead_out_of_the_archive_are_refused() {
    let api = Api::start().await;
    for (name, expected) in [
        ("../outside.ppm", "../outside.ppm leads out of its directory"),
        ("train/cat/../../../outside.ppm", "leads out of its directory"),
        ("/tmp/outside.ppm", "/tmp/outside.ppm is an absolute path"),
        ("train\\cat\\4.ppm", "has a backslash in its name"),
        ("train/cat/\u{7}.ppm", "has a control character"),
    ] {
        fault(&api, tar_with(vec![entry(name.as_bytes(), b'0', b"x")]), expected).await;
        // The writer may refuse such a name, so it is written over another one.
        let harmless = "Z".repeat(name.len());
        let also = zip_also(|writer| writer.start_file(&harmless, SimpleFileOptions::default()).unwrap());
        let also = replaced(&also, harmless.as_bytes(), name.as_bytes());
        fault(&api, also, expected).await;
    }
    fault(&api, tar_with(vec![entry(b"train/caf\xe9/1.ppm", b'0', b"x")]), "is not valid UTF-8").await;
    assert!(!api.dir.path().join("outside.ppm").exists());
}

#[tokio::test]
async fn links_devices_and_sparse_files_are_refused() {
    let api = Api::start().await;
    for (kind, expected) in [
        (b'1', "train/cat/4.ppm is a hard link"),
        (b'2', "train/cat/4.ppm is a symbolic link"),
        (b'3', "is a device"),
        (b'4', "is a device"),
        (b'6', "is a pipe"),
        (b'S', "is a sparse file"),
        (b'?', "is of a kind that is unknown"),
    ] {
        fault(&api, tar_with(vec![entry(b"train/cat/4.ppm", kind, b"")]), expected).await;
    }
    let link =
        zip_also(|writer| writer.add_symlink("train/cat/4.ppm", "/etc/passwd", SimpleFileOptions::default()).unwrap());
    fault(&api, link, "train/cat/4.ppm is a symbolic link").await;
    let sparse = entry(b"PaxHeaders/4.ppm", b'x', b"22 GNU.sparse.major=1\n");
    fault(&api, tar_with(vec![sparse, entry(b"train/cat/4.ppm", b'0', b"x")]), "is a sparse file").await;
}

#[tokio::test]
async fn names_that_come_twice_and_files_in_the_way_are_refused() {
    let api = Api::start().await;
    let twice = tar_with(vec![entry(b"./train//cat/1.ppm", b'0', b"other")]);
    fault(&api, twice, "./train//cat/1.ppm appears twice").await;
    // The writer refuses it, so the second name is written over a third one.
    let twice = zip_also(|writer| writer.start_file("train/cat/X.ppm", SimpleFileOptions::default()).unwrap());
    let twice = replaced(&twice, b"train/cat/X.ppm", b"train/cat/1.ppm");
    fault(&api, twice, "train/cat/1.ppm appears twice").await;
    fault(&api, tar_with(vec![entry(b"train/cat/1.ppm/a.ppm", b'0', b"x")]), "lies below a file").await;
    fault(&api, tar_with(vec![entry(b"train/cat/1.ppm", b'5', b"")]), "a file before it has the same name").await;
    fault(&api, tar_with(vec![entry(b"train/cat", b'0', b"x")]), "a directory has the same name").await;
}

pub(super) fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

#[tokio::test]
async fn every_fault_of_an_archive_is_named_up_to_twenty() {
    let api = Api::start().await;
    let names = (0..25).map(|number| format!("../{number}"));
    let bytes = tar_with(names.map(|name| entry(name.as_bytes(), b'0', b"x")).collect());
    let faults = refused(&api, bytes).await;
    assert_eq!(faults.len(), 21);
    assert!(faults[0].starts_with("../0 leads out") && faults[19].starts_with("../19"), "{faults:?}");
    assert_eq!(faults[20], "there are 5 more faults like these");
}

#[tokio::test]
async fn bombs_end_before_they_fill_anything() {
    let zeros = vec![0; 80 << 20];
    let api = Api::start().await;
    let bomb = [pets(), vec![("train/cat/bomb.ppm", zeros.clone())]].concat();
    let growth = "more than 100 times its own size";
    for bytes in [zip(&bomb), gzip(&tar(&bomb)), zstd(&tar(&bomb))] {
        fault(&api, bytes, growth).await;
    }
    // Entries that are passed over take time all the same.
    let hidden = [pets(), vec![(".bomb", zeros)]].concat();
    fault(&api, zstd(&tar(&hidden)), growth).await;
    // Entries take space, however small they are: 10,000 take 5 MB beside 60 MiB of zeros, of 64 MiB that are free.
    let large = entry(b"train/cat/large.ppm", b'0', &vec![0; 60 << 20]);
    let directories = (0..10_000).map(|number| entry(format!("train/cat/{number}/").as_bytes(), b'5', b""));
    fault(&api, zstd(&tar_with(std::iter::once(large).chain(directories).collect())), growth).await;
    // So do headers, which are no entries.
    let header = entry(b"PaxHeaders/x", b'g', &[b' '; 512]);
    fault(&api, zstd(&tar_with(vec![header.repeat(70_000)])), growth).await;
    let long = announced(b"PaxHeaders/x", b'x', 1 << 40, b"");
    fault(&api, tar_with(vec![long]), "it has a header of 1099511627776 bytes").await;
}

#[test]
fn a_zip_whose_list_of_entries_would_fill_the_memory_is_refused() {
    let names: Vec<String> = (0..100).map(|number| format!("train/{}/{number}.ppm", "c".repeat(200))).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), ppm([1, 2, 3]))).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&zip(&files)).unwrap();
    let unpack = |limits| {
        let into = tempfile::tempdir().unwrap();
        archive::unpack(Format::Zip, &file, into.path(), limits)
    };
    let error = unpack(Limits { directory: 20_000, ..Limits::new(1 << 20) }).unwrap_err().to_string();
    assert!(error.contains("its list of entries has more than 20000 bytes"), "{error}");
    assert_eq!(unpack(Limits::new(1 << 20)).unwrap().files, 100);
}

#[tokio::test]
async fn a_data_set_has_at_most_as_many_bytes_as_the_operator_allows() {
    let api = Api::start_with(|settings| settings.dataset_limit = 2 << 20).await;
    let large = [pets(), vec![("train/cat/large.ppm", vec![7; 3 << 20])]].concat();
    fault(&api, gzip(&tar(&large)), "it unpacks to more than 2097152 bytes").await;
    api.upload_dataset("pets", tar(&large)).await.says(413, &["2097152 bytes"]);
    api.upload_dataset("pets", zip(&pets())).await.expect(201);
}

#[tokio::test]
async fn a_server_that_keeps_no_copies_says_that_it_takes_no_data_sets() {
    let api = Api::start_with(|settings| {
        settings.dataset_cache = DatasetCache::new(settings.spool_dir.with_file_name("dataset-cache"), 0);
    })
    .await;
    api.upload_dataset("pets", zip(&pets())).await.says(409, &["takes no data sets", "--dataset-cache-mib is 0"]);
}

#[tokio::test]
async fn what_is_damaged_cut_or_no_archive_is_refused_with_what_to_do() {
    let api = Api::start().await;
    let (zipped, tarred) = (zip_with(&pets(), CompressionMethod::Stored), tar(&pets()));
    let mut flipped = zipped.clone();
    let at = zipped.windows(4).position(|window| window == [200, 10, 10, 200]).unwrap();
    flipped[at] ^= 1;
    fault(&api, flipped, "train/cat/1.ppm cannot be unpacked: the archive is damaged").await;
    fault(&api, zipped[..zipped.len() - 30].to_vec(), "was not uploaded whole").await;
    fault(&api, tarred[..3000].to_vec(), "damaged").await;
    let packed = gzip(&tarred);
    fault(&api, packed[..packed.len() - 4].to_vec(), "damaged").await;
    fault(&api, gzip(b"no tar"), "is no tar archive").await;
    fault(&api, b"BZh91AY&SY".to_vec(), "packed with bzip2, which is not read").await;
    fault(&api, b"hello".to_vec(), "neither an archive nor a parquet file").await;
    fault(&api, b"PAR1".to_vec(), "is a parquet shard").await;
    fault(&api, zip(&[]), "it holds no file").await;
}

#[tokio::test]
async fn an_archive_without_a_data_set_is_refused_by_the_rules_for_directories() {
    let api = Api::start().await;
    fault(&api, zip(&[("readme.txt", b"hello".to_vec())]), "pets: the format of this data set is unknown").await;
    let empty = [pets(), vec![("train/cow/readme.txt", b"none yet".to_vec())]].concat();
    fault(&api, zip(&empty), "pets/train/cow: contains no image").await;
    let unknown = [pets(), vec![("test/zebra/1.ppm", ppm([0; 3]))]].concat();
    // A split that no job can use is a note.
    let details = api.upload_dataset("zoo", zip(&unknown)).await.expect(201);
    assert!(details["notes"].to_string().contains("no job can use the test split: zoo/test/zebra"), "{details}");
}

#[tokio::test]
async fn a_class_name_that_the_database_cannot_hold_is_stored_without_its_nul() {
    let api = Api::start().await;
    let table = br#"{"file_name": "1.ppm", "label": "c\u0000t"}
{"file_name": "2.ppm", "label": "dog"}
"#;
    let mut files = Vec::new();
    for (first, second, labels) in
        [("train/1.ppm", "train/2.ppm", "train/metadata.jsonl"), ("test/1.ppm", "test/2.ppm", "test/metadata.jsonl")]
    {
        files.extend([(first, ppm([200, 0, 0])), (second, ppm([0, 0, 200])), (labels, table.to_vec())]);
    }
    api.upload_dataset("pets", zip(&files)).await.expect(201);
    let details = api.get("/v1/datasets/pets").await.expect(200);
    assert_eq!(details["classes"]["listed"][0]["name"], "c\u{fffd}t", "{details}");
}

#[tokio::test]
async fn names_of_uploads_are_plain_and_not_those_of_directories() {
    let api = Api::start().await;
    let put = async |name: &str| -> Answer { api.upload_dataset(name, zip(&pets())).await };
    put("ten").await.says(409, &["ten is a directory in the server's --datasets-dir"]);
    put("pets@3f2a").await.says(400, &["cannot be called \"pets@3f2a\"", "the server chooses the version"]);
    for name in ["-x", "a%2Fb", "a%20b", "x".repeat(65).as_str()] {
        put(name).await.says(400, &["its name has 1 to 64 letters"]);
    }
}
