//! What several tests need.

pub mod random;

use std::process::Command;

/// Whether this is the process that runs this test alone; in any other, has such a process run it. For what can be
/// measured of whole processes only.
pub fn is_alone(test: &str) -> bool {
    const ALONE: &str = "DISTILLERY_TEST_ALONE";
    if std::env::var_os(ALONE).is_some_and(|alone| alone == test) {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().expect("the tests know their program"));
    let output = command.args(["--exact", test, "--nocapture"]).env(ALONE, test).output().expect("it starts again");
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && said.contains("1 passed");
    assert!(passed, "{said}{}", String::from_utf8_lossy(&output.stderr));
    false
}
