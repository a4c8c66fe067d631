//! Runs a test's body in a child process that finds the virtual driver as its libcuda.

#[allow(dead_code, reason = "not every test binary uses it")]
pub mod raw;

use std::process::Command;

const CHILD: &str = "PTXSIM_TEST_CHILD";

/// In the parent: runs test `name` again in a child with the virtual driver, expects it to pass and
/// gives its stderr. In the child: runs `body` and gives nothing.
pub fn in_child(name: &str, environment: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    if std::env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let own = std::env::current_exe().expect("path of the test");
    let folder = own.parent().expect("folder of the test");
    let driver = folder.join("libptxsim_driver.so");
    assert!(driver.exists(), "{} is not there", driver.display());
    let libraries = folder.join("virtual-gpu");
    std::fs::create_dir_all(&libraries).expect("a folder beside the test");
    // What an earlier test left may lead elsewhere, where the folder was copied; another test may do the same now.
    let link = libraries.join(format!("{}-{name}", std::process::id()));
    std::os::unix::fs::symlink(&driver, &link).expect("a link to the driver");
    std::fs::rename(&link, libraries.join("libcuda.so")).expect("its name");
    let output = Command::new(&own)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", &libraries)
        .env(CHILD, "1")
        .env_remove("PTXSIM_DEVICE")
        .env_remove("PTXSIM_DEVICES")
        .env_remove("PTXSIM_SEED")
        .env_remove("PTXSIM_KERNELS")
        .env_remove("PTXSIM_MMA")
        .env_remove("PTXSIM_RECORD")
        .envs(environment.iter().copied())
        .output()
        .expect("the child starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "child of {name}: {}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "child of {name} ran no test:\n{stdout}");
    Some(stderr)
}
