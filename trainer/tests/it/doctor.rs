//! What the doctor says about machines without a GPU; `gpu` has what it says with one.

use std::process::Output;

use distillery_trainer::device;
use serde_json::Value;

use crate::support::process::program;
use crate::support::text;

fn doctor(flags: &[&str]) -> (Output, Value) {
    let run = program("doctor").arg("--json").args(flags).output().unwrap();
    let said = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
    (run, said)
}

fn finding<'a>(said: &'a Value, check: &str) -> &'a Value {
    let findings = said["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check}: {said}"))
}

#[test]
fn the_cpu_is_fine_and_the_doctor_succeeds() {
    let (run, said) = doctor(&["--device", "cpu"]);
    assert_eq!((run.status.code(), &said["healthy"]), (Some(0), &Value::Bool(true)), "{said}");
    assert_eq!(finding(&said, "cpu")["state"], "fine");
    let lines = program("doctor").args(["--device", "cpu"]).output().unwrap();
    assert!(lines.status.success() && text(&lines.stdout).ends_with("Jobs can run here.\n"), "{}", text(&lines.stdout));
}

#[test]
fn where_a_gpu_is_wanted_and_there_is_none_the_doctor_names_the_driver_and_fails() {
    if device::open("cuda").is_ok() {
        return;
    }
    let (run, said) = doctor(&["--device", "cuda:0"]);
    assert_eq!((run.status.code(), &said["healthy"]), (Some(1), &Value::Bool(false)), "{said}");
    // The last check: nothing can be found out after it.
    let failed = said["findings"].as_array().unwrap().last().unwrap();
    assert_eq!(failed["state"], "failed", "{said}");
    assert!(["driver", "cuda", "gpus"].contains(&failed["check"].as_str().unwrap()), "{said}");
    assert_eq!(said["gpus"], Value::Array(Vec::new()));
}

#[test]
fn an_image_is_checked_without_a_driver_and_fails_if_what_gpus_need_is_not_in_it() {
    let (run, said) = doctor(&["--without-gpu"]);
    assert_eq!(finding(&said, "driver")["state"], "not_checked");
    let is_healthy = said["healthy"].as_bool().unwrap();
    assert_eq!(run.status.code(), Some(i32::from(!is_healthy)), "{said}");
    let cuda = finding(&said, "cuda");
    if cuda["state"] == "fine" {
        // The plugin depends on CUDA's headers, and its absence fails an image.
        assert_eq!(
            finding(&said, "plugin")["state"] == "fine" && finding(&said, "nccl")["state"] == "fine",
            is_healthy
        );
    } else {
        assert!(!is_healthy && cuda["detail"].as_str().unwrap().contains("TORCH_VARIANT=gpu"), "{said}");
    }
}

#[test]
fn an_architecture_that_does_not_exist_is_refused() {
    let run = program("doctor").args(["--architecture", "resnet32x5"]).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("unknown architecture \"resnet32x5\""), "{}", text(&run.stderr));
}
