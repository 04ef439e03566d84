//! Files of our own are there whole or not at all, and secrets are not read where others can read them too.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dbagent::host::FileErrorKind;
use dbagent::host::durable::{private_directory, read_bounded, read_secret_file, remove, replace, write_new};
use secrecy::ExposeSecret as _;

fn text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn names_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Where the fault tests below make this test write, in a process of its own under strace.
const PLACE: &str = "DBAGENT_TEST_FILE";

#[test]
fn a_new_file_is_there_whole_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var_os(PLACE).map_or_else(|| folder.path().join("state"), PathBuf::from);
    write_new(&path, b"state").map_err(|error| text(&error)).unwrap();
    assert_eq!(read_bounded(&path, 5).unwrap(), b"state");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names_in(path.parent().unwrap()), [path]);
}

/// Runs the test above with faults injected into its system calls. Gives what it said and what strace saw.
fn write_under(injection: &str, path: &Path) -> (Output, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let ran = Command::new("strace")
        .args(["-f", "-e", injection, "-o"])
        .arg(log.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "durable::a_new_file_is_there_whole_and_private", "--nocapture"])
        .env(PLACE, path)
        .output()
        .unwrap();
    (ran, fs::read_to_string(log.path()).unwrap())
}

#[test]
fn f19_a_failed_fsync_is_a_failed_write_and_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let (ran, trace) = write_under("inject=fsync:error=EIO:when=1", &path);
    assert_eq!(trace.matches("(INJECTED)").count(), 1, "the fault did not fire: {trace}");
    assert_eq!(trace.matches("fsync(").count(), 1, "fsync was tried again: {trace}");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && said.contains("Input/output error"), "{said}");
    assert!(said.contains(&path.display().to_string()), "{said}");
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn f17_a_full_disk_names_the_path_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    if rustix::process::geteuid().is_root() && mount_small_disk(folder.path()) {
        let error = write_new(&path, &vec![1; 1 << 20]).unwrap_err();
        let left = names_in(folder.path());
        write_new(&path, b"small").unwrap();
        let unmounted = Command::new("umount").arg(folder.path()).status().unwrap();
        assert!(unmounted.success());
        assert_eq!(error.kind, FileErrorKind::NoSpace);
        assert!(error.to_string().contains("1048576 bytes"), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(left.is_empty(), "{left:?}");
    } else {
        let (ran, trace) = write_under("inject=fsync:error=ENOSPC:when=1", &path);
        assert!(trace.contains("(INJECTED)"), "the fault did not fire: {trace}");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(said.contains("No space left on device") && said.contains(&path.display().to_string()), "{said}");
        assert!(names_in(folder.path()).is_empty());
    }
}

fn mount_small_disk(folder: &Path) -> bool {
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder).status();
    mount.is_ok_and(|status| status.success())
}

#[test]
fn a_new_file_never_replaces_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    write_new(&path, b"first").unwrap();
    assert_eq!(write_new(&path, b"second").unwrap_err().kind, FileErrorKind::Exists);
    assert_eq!(fs::read(&path).unwrap(), b"first");
    replace(&path, b"third").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"third");
    remove(&path).unwrap();
    assert_eq!(remove(&path).unwrap_err().kind, FileErrorKind::Missing);
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn f22_a_planted_link_is_replaced_and_never_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, victim) = (folder.path().join("state"), folder.path().join("victim"));
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, &path).unwrap();
    assert_eq!(write_new(&path, b"x").unwrap_err().kind, FileErrorKind::Exists);
    replace(&path, b"ours").unwrap();
    assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
}

#[test]
fn f22_a_directory_that_is_not_ours_alone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("a/b");
    private_directory(&made).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    private_directory(&made).unwrap();

    let link = folder.path().join("link");
    symlink(&made, &link).unwrap();
    let error = private_directory(&link).unwrap_err();
    assert_eq!(error.kind, FileErrorKind::Unsafe, "{error}");

    for mode in [0o750, 0o701, 0o777] {
        fs::set_permissions(&made, Permissions::from_mode(mode)).unwrap();
        let error = private_directory(&made).unwrap_err();
        assert_eq!(error.kind, FileErrorKind::Unsafe, "{mode:o} was taken");
        assert!(error.to_string().contains(&format!("chmod 700 {}", made.display())), "{error}");
    }
}

#[test]
fn f22_a_directory_that_another_user_owns_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, me) = (folder.path().join("spool"), rustix::process::geteuid().as_raw());
    fs::create_dir(&path).unwrap();
    // Root gives one away; anybody else finds one that is root's.
    let foreign =
        if me == 0 { std::os::unix::fs::chown(&path, Some(65534), None).map(|()| path) } else { Ok("/".into()) };
    let error = private_directory(&foreign.unwrap()).unwrap_err();
    assert_eq!(error.kind, FileErrorKind::Unsafe);
    assert!(error.to_string().contains("owns it"), "{error}");
}

#[test]
fn f23_a_secret_that_others_may_touch_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    fs::write(&path, "correct horse\n").unwrap();
    for mode in 0..0o1000 {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        match read_secret_file(&path) {
            Ok(secret) => {
                assert_eq!(mode & 0o077, 0, "{mode:o} was taken");
                assert_eq!(secret.expose_secret(), "correct horse");
            }
            Err(error) if mode & 0o077 == 0 => assert_eq!(error.kind, FileErrorKind::Denied, "{error}"),
            Err(error) if mode & 0o400 == 0 && error.kind == FileErrorKind::Denied => {}
            Err(error) => {
                assert_eq!(error.kind, FileErrorKind::Unsafe, "{error}");
                let cure = format!("mode {mode:04o} lets others at it; run: chmod 600 {}", path.display());
                assert!(error.to_string().contains(&cure), "{error}");
            }
        }
    }
}

#[test]
fn f24_a_file_larger_than_its_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    fs::write(&path, [0; 11]).unwrap();
    assert_eq!(read_bounded(&path, 10).unwrap_err().kind, FileErrorKind::Malformed);
    assert_eq!(read_bounded(&path, 11).unwrap().len(), 11);
}
