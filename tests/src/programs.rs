//! Where the finished programs are.
//!
//! `MUSTER_PROGRAMS` names a folder that holds them (`tools/test` builds them once and sets it). Without it they are
//! built in the profile of the test itself, so that a test run by hand never meets an old program.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of a finished program of this workspace, `muster` for instance.
///
/// # Panics
/// When it is not where `MUSTER_PROGRAMS` says, or cannot be built.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match env::var_os("MUSTER_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => build(),
    });
    let path = folder.join(name);
    assert!(path.is_file(), "`{}` is not there: build it, or see tools/test", path.display());
    path
}

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// Builds all programs beside this test and returns their folder.
fn build() -> PathBuf {
    // target/<profile>/deps/<this test>
    let test = env::current_exe().expect("a running program has a path");
    let folder = test.ancestors().nth(2).expect("cargo puts tests two folders deep").to_owned();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["build", "--quiet", "--bins"]).args([
        "-p",
        "muster-agent",
        "-p",
        "muster-registrator",
        "-p",
        "muster-template",
        "-p",
        "muster-examples",
    ]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.output().expect("cargo runs where its tests do");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    folder
}
