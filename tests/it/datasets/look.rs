//! The details, statistics and images of a data set.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::api::{Api, plain_job};
use crate::support::archives::{pets, ppm, zip};
use crate::support::db::TestDb;
use crate::support::eventually;

fn write(directory: &Path, files: &[(&str, Vec<u8>)]) {
    for (path, content) in files {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

#[tokio::test]
async fn a_data_set_shows_its_splits_and_the_images_of_every_class() {
    let api = Api::start().await;
    let files = [pets(), vec![("train/dog/4.ppm", ppm([0; 3])), ("train/notes.gif", vec![1])]].concat();
    let details = api.upload_dataset("pets", zip(&files)).await.expect(201);
    assert_eq!(details["format"], "folder");
    assert_eq!(details["images"], 9);
    let size = ppm([0; 3]).len() as u64;
    assert_eq!(
        details["splits"],
        json!([{"name": "test", "images": 2, "size_bytes": 2 * size}, {"name": "train", "images": 7, "size_bytes": 7 * size}])
    );
    assert_eq!(
        details["classes"],
        json!({"more": 0, "listed": [
            {"label": 0, "name": "cat", "images": {"train": 3, "test": 1}},
            {"label": 1, "name": "dog", "images": {"train": 4, "test": 1}},
        ]})
    );
    let directory = api.get("/v1/datasets/ten").await.expect(200);
    assert_eq!((&directory["id"], &directory["version"]), (&json!("ten"), &Value::Null));
    assert_eq!(directory["class_count"], 10);
    assert_eq!(directory["classes"]["listed"][1], json!({"label": 1, "name": null, "images": {"train": 4, "test": 4}}));
}

#[tokio::test]
async fn why_a_directory_is_not_offered_is_said() {
    let api = Api::start().await;
    std::fs::create_dir(api.dir.path().join("datasets/nothing")).unwrap();
    for path in ["/v1/datasets/nothing", "/v1/datasets/nothing/images"] {
        let answer = api.get(path).await;
        assert!(
            answer.text().contains("the format of this data set is unknown: it holds nothing"),
            "{}",
            answer.text()
        );
        assert!(!answer.text().contains(api.dir.path().to_str().unwrap()));
    }
    api.get("/v1/datasets/none").await.says(404, &["there is no data set \"none\""]);
}

#[tokio::test]
async fn images_that_are_in_two_splits_are_a_warning() {
    let api = Api::start().await;
    let leaked = vec![
        ("test/cat/2.ppm", ppm([200, 10, 10])),
        ("test/dog/2.ppm", ppm([200, 10, 10])),
        ("train/dog/4.ppm", ppm([10, 10, 200])),
        ("test/dog/3.ppm", b"P6 8 8 255\nshort".to_vec()),
    ];
    api.upload_dataset("pets", zip(&[pets(), leaked].concat())).await.expect(201);
    let details = api.decoded("pets").await;
    let statistics = &details["statistics"];
    let duplicates: Vec<_> = statistics["duplicates"].as_array().unwrap().iter().collect();
    let [within, across] = duplicates.as_slice() else { panic!("{statistics:#}") };
    assert_eq!(
        (&within["splits"], &within["images"], &within["contradictory"], &within["examples"]),
        (&json!(["train", "train"]), &json!(1), &json!(0), &json!([[6, 3]]))
    );
    // Positions in the order of the files: cat/1, cat/2, dog/1, dog/2, dog/3.
    assert_eq!(
        (&across["splits"], &across["images"], &across["contradictory"], &across["examples"]),
        (&json!(["test", "train"]), &json!(2), &json!(1), &json!([[1, 0], [3, 0]]))
    );
    let warnings: Vec<_> =
        statistics["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(
        warnings,
        [
            "the test split shares 2 images with the train split: the accuracy on it will be better than on other images",
            "1 image of the test split has a copy of another class in the train split",
            "1 of 5 images of the test split cannot be decoded",
        ]
    );
    let test = statistics["splits"].as_array().unwrap().iter().find(|split| split["split"] == "test").unwrap();
    assert_eq!(
        (&test["undecodable"], &test["examples"][0]["position"], &test["examples"][0]["file"]),
        (&json!(1), &json!(4), &json!("test/dog/3.ppm"))
    );
    // Of one colour each, so that resizing changes nothing.
    let reds = [200.0, 210.0, 220.0, 10.0, 10.0, 10.0, 10.0].map(|value| value / 255.0);
    let mean = reds.iter().sum::<f64>() / 7.0;
    let deviation = (reds.iter().map(|red| (red - mean).powi(2)).sum::<f64>() / 7.0).sqrt();
    let number = |field: &str| statistics[field][0].as_f64().unwrap();
    assert!((number("mean") - mean).abs() < 1e-9, "{} {mean}", number("mean"));
    assert!((number("std") - deviation).abs() < 1e-9, "{} {deviation}", number("std"));
    // They are stored with the version.
    let stored: i64 = sqlx::query_scalar("select count(*) from datasets where statistics is not null")
        .fetch_one(&api.db.pool)
        .await
        .unwrap();
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn jobs_sweeps_and_their_dry_runs_say_what_was_found_in_the_images() {
    let api = Api::start().await;
    let more = vec![("test/cat/2.ppm", ppm([200, 10, 10])), ("train/dog/4.ppm", b"P6 8 8 255\nshort".to_vec())];
    let files = [pets(), more].concat();
    api.upload_dataset("pets", zip(&files)).await.expect(201);
    write(&api.dir.path().join("datasets/stray"), &files);
    for name in ["pets", "stray"] {
        api.decoded(name).await;
        let mut job = plain_job();
        job["dataset"] = json!({"name": name});
        let said = [
            "the test split shares 1 image with the train split: the accuracy on it will be better than on other images",
            "1 of 7 images of the train split cannot be decoded and will be left out: image 6 in train/dog/4.ppm",
            "the job fails if more than 0 of the 7 images that it trains on cannot be decoded: repair or remove them",
        ];
        let says_all = |answer: &Value| said.iter().all(|line| answer.to_string().contains(line));
        let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200);
        assert!(says_all(&dry["warnings"]), "{dry:#}");
        let posted = api.post("/v1/jobs", &job).await.expect(201);
        let events = api.get(&format!("/v1/jobs/{}/events", posted["id"].as_str().unwrap())).await.expect(200);
        assert!(says_all(&events), "{events:#}");
        let axes = json!({"/training/optimizer/learning_rate": [0.1, 0.01]});
        let dry =
            api.post("/v1/sweeps?dry_run=true", &json!({"name": "two", "base": job, "axes": axes})).await.expect(200);
        assert!(says_all(&dry["warnings"]), "{dry:#}");
        // A job that uses neither the split with the copy nor the copy's original is told of neither.
        job["dataset"]["train_split"] = json!("test");
        job["dataset"]["eval_fraction"] = json!(0.5);
        let dry = api.post("/v1/jobs?dry_run=true", &job).await.expect(200)["warnings"].to_string();
        assert!(!dry.contains("shares 1 image") && !dry.contains("will be left out"), "{dry}");
    }
}

#[tokio::test]
async fn dry_runs_look_at_images_at_which_nobody_has_looked() {
    let api = Api::start().await;
    let files = [pets(), vec![("test/cat/2.ppm", ppm([200, 10, 10]))]].concat();
    let axes = json!({"/training/optimizer/learning_rate": [0.1, 0.01]});
    for (name, path) in [("one", "/v1/jobs?dry_run=true"), ("two", "/v1/sweeps?dry_run=true")] {
        write(&api.dir.path().join("datasets").join(name), &files);
        let mut document = plain_job();
        document["dataset"] = json!({"name": name});
        if name == "two" {
            document = json!({"name": name, "base": document, "axes": axes});
        }
        // A busy machine may need longer than a request waits.
        let said = eventually("the images are read", async || {
            let warnings = api.post(path, &document).await.expect(200)["warnings"].to_string();
            let is_known = !warnings.contains(&format!("(GET /v1/datasets/{name})"));
            assert!(
                is_known || warnings.contains("it is not known yet whether images are in two splits"),
                "{warnings}"
            );
            is_known.then_some(warnings)
        })
        .await;
        assert!(said.contains("the test split shares 1 image with the train split"), "{said}");
    }
}

#[tokio::test]
async fn a_class_is_found_in_either_unicode_normal_form() {
    let api = Api::start().await;
    let files = [pets(), vec![("train/cafe\u{301}/1.ppm", ppm([1, 2, 3]))]].concat();
    api.upload_dataset("pets", zip(&files)).await.expect(201);
    for name in ["cafe%CC%81", "caf%C3%A9"] {
        let page = api.get(&format!("/v1/datasets/pets/images?class={name}")).await.expect(200);
        assert_eq!(page["images"], 1, "{name}");
    }
}

#[tokio::test]
async fn images_without_labels_that_are_evaluated_on_are_a_warning() {
    let api = Api::start().await;
    let more = vec![("more/1.ppm", ppm([205, 10, 10])), ("more/2.ppm", ppm([1, 2, 3]))];
    api.upload_dataset("pets", zip(&[pets(), more].concat())).await.expect(201);
    let details = api.decoded("pets").await;
    let size = ppm([0; 3]).len() as u64;
    assert_eq!(details["unlabelled_splits"], json!([{"name": "more", "images": 2, "size_bytes": 2 * size}]));
    let page = api.get("/v1/datasets/pets/images?split=more").await.expect(200);
    let labels: Vec<_> = page["data"].as_array().unwrap().iter().map(|image| &image["label"]).collect();
    assert_eq!((labels, &page["images"]), (vec![&Value::Null; 2], &json!(2)));
    assert!(page["data"][0]["thumbnail"].is_string());
    let statistics = &details["statistics"];
    assert_eq!(
        statistics["warnings"],
        json!(["the more split shares 1 image with the test split: a job with this unlabelled_split trains on them"])
    );
    assert_eq!(statistics["splits"][2]["split"], "more");
}

#[tokio::test]
async fn the_sizes_and_formats_of_the_images_are_said() {
    let api = Api::start().await;
    let wide = [b"P6 4 2 255\n".as_slice(), &[9; 24]].concat();
    api.upload_dataset("pets", zip(&[pets(), vec![("train/cat/4.ppm", wide)]].concat())).await.expect(201);
    let details = api.decoded("pets").await;
    let sizes: Vec<_> = details["statistics"]["splits"].as_array().unwrap().iter().map(|one| &one["sizes"]).collect();
    assert_eq!(
        sizes,
        [
            &json!({"smallest": [4, 2], "largest": [8, 8], "is_uniform": false}),
            &json!({"smallest": [8, 8], "largest": [8, 8], "is_uniform": true}),
        ]
    );
    let train = &details["statistics"]["splits"][0];
    assert_eq!((&train["formats"], &train["compared"]), (&json!({"pnm": 7}), &json!(7)));
}

#[tokio::test]
async fn why_the_images_cannot_be_decoded_is_said() {
    let api = Api::start().await;
    api.upload_dataset("pets", zip(&pets())).await.expect(201);
    api.decoded("pets").await;
    sqlx::query("update datasets set statistics = null").execute(&api.db.pool).await.unwrap();
    // A server without a copy, whose storage has lost the file.
    let other = Api::start_on(TestDb::new().await, api.db.pool.clone(), |_| ()).await;
    let fault = eventually("the fault is said", async || {
        let details = other.get("/v1/datasets/pets").await.expect(200);
        details["statistics_fault"].as_str().map(str::to_owned)
    })
    .await;
    assert!(fault.contains("missing in storage or damaged there: upload them again"), "{fault}");
}

#[tokio::test]
async fn thumbnails_come_page_by_page_for_a_split_and_a_class() {
    let api = Api::start().await;
    let files = [pets(), vec![("train/dog/4.ppm", b"P6 8 8 255\nshort".to_vec())]].concat();
    api.upload_dataset("pets", zip(&files)).await.expect(201);
    let page = async |query: &str| api.get(&format!("/v1/datasets/pets/images?{query}")).await.expect(200);
    let positions = |page: &Value| -> Vec<u64> {
        page["data"].as_array().unwrap().iter().map(|image| image["position"].as_u64().unwrap()).collect()
    };
    let all = page("").await;
    assert_eq!((&all["split"], &all["images"], &all["has_more"]), (&json!("train"), &json!(7), &json!(false)));
    let first = page("class=dog&limit=2").await;
    assert_eq!((positions(&first), &first["images"], &first["next"]), (vec![3, 4], &json!(4), &json!(4)));
    let rest = page("class=1&limit=2&after=4").await;
    assert_eq!((positions(&rest), &rest["has_more"], &rest["next"]), (vec![5, 6], &json!(false), &Value::Null));
    let broken = &rest["data"][1];
    assert_eq!((&broken["class"], &broken["thumbnail"]), (&json!("dog"), &Value::Null));
    assert!(broken["fault"].as_str().unwrap().contains("is damaged: "), "{broken}");
    assert_eq!(positions(&page("split=test").await), [0, 1]);
    let thumbnail = page("limit=1&side=16").await["data"][0]["thumbnail"].as_str().unwrap().to_owned();
    let jpeg = BASE64_STANDARD.decode(thumbnail.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
    assert!(jpeg.starts_with(b"\xff\xd8") && jpeg.ends_with(b"\xff\xd9"));
    for (query, said) in [
        ("split=dev", "has no dev"),
        ("class=cow", "there is no class \"cow\""),
        ("class=2", "a number below 2"),
        ("side=1000", "from 16 to 256"),
        ("limit=0", "from 1 to 100"),
        ("page=2", "unknown field"),
    ] {
        api.get(&format!("/v1/datasets/pets/images?{query}")).await.says(400, &[said]);
    }
}

/// A PPM image of noise, which JPEG cannot make small.
fn noise(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let pixels = (0..3 * 256 * 256).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    [b"P6 256 256 255\n".to_vec(), pixels.collect()].concat()
}

#[tokio::test]
async fn a_page_of_large_pictures_ends_early_and_the_next_goes_on() {
    let api = Api::start().await;
    let names: Vec<String> = (0..40).map(|number| format!("train/cat/{number:02}.ppm")).collect();
    let images: Vec<_> = names.iter().zip(0..).map(|(name, seed)| (name.as_str(), noise(seed))).collect();
    api.upload_dataset("large", zip(&[pets(), images].concat())).await.expect(201);
    let (mut positions, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = api.get(&format!("/v1/datasets/large/images?class=cat&limit=100&side=256{after}")).await;
        assert!(page.body.len() < 3 << 19, "{} bytes", page.body.len());
        let page = page.expect(200);
        positions.extend(page["data"].as_array().unwrap().iter().map(|image| image["position"].as_u64().unwrap()));
        pages += 1;
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["next"]);
    }
    assert!(pages > 1);
    assert_eq!(positions, (0..43).collect::<Vec<_>>());
}
