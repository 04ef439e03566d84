//! Faults of a directory repository, by their numbers: full disks, failing disks, planted names.
//!
//! A test that needs a special world (its own mounts, a tracer) runs itself once more inside it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dbagent::storage::{DirectoryStorage, PutOptions, Storage, StorageErrorKind};

use crate::stage::objects::{key, list, noise, put, read, upload};

/// Where the second self of a test finds its directory.
const PLACE: &str = "DBAGENT_TEST_PLACE";

fn place_of_second_self() -> Option<PathBuf> {
    std::env::var_os(PLACE).map(PathBuf::from)
}

/// Runs `test` of this module once more, by `command` (a shell line with `"$@"` in it).
fn second_self(command: &str, test: &str, place: &Path) -> Output {
    Command::new("sh")
        .args(["-ec", command, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("storage_directory_faults::{test}"), "--nocapture"])
        .env(PLACE, place)
        .output()
        .unwrap()
}

fn assert_success(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "the second self ran nothing");
}

/// Runs the test inside a small file system of its own; nobody else sees the mount, and it ends with the process.
fn on_tmpfs(options: &str, test: &str) {
    let place = tempfile::tempdir().unwrap();
    let root = if rustix::process::geteuid().is_root() { "" } else { "--user --map-root-user" };
    let mount = format!("mount -t tmpfs -o mode=0700,{options} tmpfs \"${PLACE}\"");
    let command = format!("exec unshare {root} --mount sh -ec '{mount}; exec \"$@\"' sh \"$@\"");
    assert_success(&second_self(&command, test, place.path()));
}

#[tokio::test]
async fn f19_a_full_disk_is_told_with_path_and_bytes_and_leaves_nothing() {
    let name = "f19_a_full_disk_is_told_with_path_and_bytes_and_leaves_nothing";
    let Some(place) = place_of_second_self() else { return on_tmpfs("size=3m", name) };
    let storage = DirectoryStorage::open(&place).unwrap();
    let error = upload(&storage, "full/a", &noise(1, 5 << 20), 100_000, &PutOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Full, "{error:?}");
    let path = place.join("full/a").display().to_string();
    assert!(error.message.contains(&path) && error.message.contains("bytes"), "{error}");
    assert_eq!(put(&storage, "full/b", &noise(1, 5 << 20)).await.unwrap_err().kind, StorageErrorKind::Full);
    assert_eq!((list(&storage, "").await, storage.unfinished().await.unwrap()), ((vec![], vec![]), vec![]));
    // Room again, no restart.
    upload(&storage, "full/a", &noise(1, 1 << 20), 100_000, &PutOptions::default()).await.unwrap();
}

#[tokio::test]
async fn f19_a_disk_without_inodes_is_full() {
    let name = "f19_a_disk_without_inodes_is_full";
    let Some(place) = place_of_second_self() else { return on_tmpfs("size=3m,nr_inodes=4", name) };
    let storage = DirectoryStorage::open(&place).unwrap();
    let mut last = Ok(());
    for n in 0..10 {
        last = last.and(put(&storage, &format!("{n}"), b"x").await.map(drop));
    }
    assert_eq!(last.unwrap_err().kind, StorageErrorKind::Full);
}

#[tokio::test]
async fn f19_a_disk_that_turned_read_only_is_denied() {
    let name = "f19_a_disk_that_turned_read_only_is_denied";
    let Some(place) = place_of_second_self() else { return on_tmpfs("size=3m", name) };
    let storage = DirectoryStorage::open(&place).unwrap();
    put(&storage, "a", b"x").await.unwrap();
    let status = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&place).status().unwrap();
    assert!(status.success());
    assert_eq!(put(&storage, "b", b"x").await.unwrap_err().kind, StorageErrorKind::Denied);
    assert_eq!(read(&storage, "a", None).await.unwrap(), b"x");
}

/// Runs the test under strace with `inject`, for calls on `file` where one is named; the trace proves that the fault
/// fired.
fn under_strace(inject: &str, file: Option<&str>, test: &str) {
    let place = tempfile::tempdir().unwrap();
    let trace = tempfile::NamedTempFile::new().unwrap();
    let call = inject.split(':').next().unwrap();
    let only = file.map(|file| format!("-P {}", place.path().join(file).display())).unwrap_or_default();
    let options = format!("-f -qq -o {} {only} -e trace={call} -e inject={inject}", trace.path().display());
    assert_success(&second_self(&format!("exec strace {options} \"$@\""), test, place.path()));
    let fired = std::fs::read_to_string(trace.path()).unwrap().matches("(INJECTED)").count();
    assert_eq!(fired, 1, "faults injected");
}

/// strace counts the calls of each thread by itself: all file access has to come from one.
fn on_one_thread(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(work);
}

#[test]
fn f19_a_failed_fsync_fails_the_object_and_is_never_repeated() {
    let name = "f19_a_failed_fsync_fails_the_object_and_is_never_repeated";
    let Some(place) = place_of_second_self() else { return under_strace("fsync:error=EIO:when=1", None, name) };
    on_one_thread(async {
        let storage = DirectoryStorage::open(&place).unwrap();
        let error = upload(&storage, "a/b", &noise(1, 100), 10, &PutOptions::default()).await.unwrap_err();
        assert!(error.kind == StorageErrorKind::Other && error.message.contains("sync"), "{error:?}");
        assert_eq!((list(&storage, "").await, storage.unfinished().await.unwrap()), ((vec![], vec![]), vec![]));
        assert!(!place.join("a").exists());
        upload(&storage, "a/b", &noise(1, 100), 10, &PutOptions::default()).await.unwrap();
    });
}

#[test]
fn f19_an_object_whose_folder_cannot_be_synced_is_withdrawn() {
    let name = "f19_an_object_whose_folder_cannot_be_synced_is_withdrawn";
    let Some(place) = place_of_second_self() else { return under_strace("fsync:error=EIO:when=2", None, name) };
    on_one_thread(async {
        let storage = DirectoryStorage::open(&place).unwrap();
        let error = put(&storage, "a", b"x").await.unwrap_err();
        assert!(error.message.contains("folder"), "{error}");
        assert_eq!((list(&storage, "").await, storage.unfinished().await.unwrap()), ((vec![], vec![]), vec![]));
        put(&storage, "a", b"x").await.unwrap();
    });
}

#[test]
fn f19_a_read_that_fails_is_an_error_and_not_an_end() {
    let name = "f19_a_read_that_fails_is_an_error_and_not_an_end";
    let Some(place) = place_of_second_self() else { return under_strace("pread64:error=EIO:when=2", Some("a"), name) };
    on_one_thread(async {
        let storage = DirectoryStorage::open(&place).unwrap();
        put(&storage, "a", &noise(1, 3 << 20)).await.unwrap();
        let error = read(&storage, "a", None).await.unwrap_err();
        assert!(error.kind == StorageErrorKind::Other && error.message.contains("1048576"), "{error:?}");
    });
}

#[test]
fn where_rename_cannot_keep_from_replacing_a_link_does() {
    let name = "where_rename_cannot_keep_from_replacing_a_link_does";
    let Some(place) = place_of_second_self() else { return under_strace("renameat2:error=EINVAL:when=1", None, name) };
    on_one_thread(async {
        let storage = DirectoryStorage::open(&place).unwrap();
        put(&storage, "a", b"first").await.unwrap();
        assert!(put(&storage, "a", b"other").await.unwrap_err().is_exists());
        assert_eq!(read(&storage, "a", None).await.unwrap(), b"first");
        assert_eq!(std::fs::metadata(place.join("a")).unwrap().nlink(), 1);
        assert_eq!(storage.unfinished().await.unwrap(), []);
    });
}

#[tokio::test]
async fn f22_planted_links_are_neither_followed_nor_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (root, outside) = (place.path().join("root"), place.path().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let storage = DirectoryStorage::create(&root).unwrap();
    symlink(&outside, root.join("folder")).unwrap();
    symlink(outside.join("victim"), root.join("link")).unwrap();
    symlink(outside.join("nothing"), root.join("dangling")).unwrap();
    std::fs::hard_link(outside.join("victim"), root.join("hard")).unwrap();

    assert_eq!(put(&storage, "folder/new", b"x").await.unwrap_err().kind, StorageErrorKind::Denied);
    assert_eq!(read(&storage, "folder/victim", None).await.unwrap_err().kind, StorageErrorKind::Denied);
    assert_eq!(storage.delete(&key("folder/victim"), None).await.unwrap_err().kind, StorageErrorKind::Denied);
    for name in ["link", "dangling", "hard"] {
        assert!(put(&storage, name, b"x").await.unwrap_err().is_exists(), "{name}");
    }
    assert_eq!(read(&storage, "link", None).await.unwrap_err().kind, StorageErrorKind::Denied);
    let (keys, mut foreign) = list(&storage, "").await;
    foreign.sort();
    assert_eq!((keys, foreign), (vec!["hard".into()], vec!["dangling".into(), "folder".into(), "link".into()]));
    assert_eq!(std::fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn f22_a_pipe_in_the_place_of_an_object_hangs_nobody() {
    let place = tempfile::tempdir().unwrap();
    let storage = DirectoryStorage::open(place.path()).unwrap();
    assert!(Command::new("mkfifo").arg(place.path().join("pipe")).status().unwrap().success());
    assert!(storage.head(&key("pipe")).await.unwrap_err().is_missing());
    assert_eq!(list(&storage, "").await, (vec![], vec!["pipe".into()]));
}

#[tokio::test]
async fn f22_a_directory_that_others_may_write_to_is_refused() {
    let place = tempfile::tempdir().unwrap();
    for (mode, refused) in [(0o700, false), (0o755, false), (0o770, true), (0o777, true), (0o1777, true)] {
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let opened = DirectoryStorage::open(place.path());
        assert_eq!(opened.is_err(), refused, "{mode:o}");
        if let Err(error) = opened {
            assert!(error.kind == StorageErrorKind::Denied && error.message.contains("0700"), "{error}");
        }
    }
}

#[tokio::test]
async fn f22_objects_and_folders_are_for_the_owner_only() {
    let place = tempfile::tempdir().unwrap();
    let storage = DirectoryStorage::open(place.path()).unwrap();
    put(&storage, "a/b/c", b"x").await.unwrap();
    let mode = |path: &str| std::fs::metadata(place.path().join(path)).unwrap().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o700, 0o700, 0o600));
}

#[tokio::test]
async fn a_directory_that_is_missing_is_not_made_behind_the_operators_back() {
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("unmounted");
    assert_eq!(DirectoryStorage::open(&missing).unwrap_err().kind, StorageErrorKind::Missing);
    assert!(!missing.exists());
}

#[tokio::test]
async fn f40_many_keys_and_odd_names_are_listed_page_by_page() {
    let place = tempfile::tempdir_in(crate::stage::quick_place()).unwrap();
    for folder in 0..20 {
        std::fs::create_dir(place.path().join(format!("f{folder:02}"))).unwrap();
        for n in 0..1000 {
            std::fs::write(place.path().join(format!("f{folder:02}/{n:04}")), "").unwrap();
        }
    }
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"not-\xff-utf8");
    std::fs::write(place.path().join(Path::new::<std::ffi::OsStr>(odd)), "").unwrap();
    std::fs::create_dir(place.path().join(".snapshots")).unwrap();
    let storage = DirectoryStorage::open(place.path()).unwrap();
    let (keys, foreign) = list(&storage, "").await;
    let expected: Vec<_> = (0..20_000).map(|n| format!("f{:02}/{:04}", n / 1000, n % 1000)).collect();
    assert!(keys == expected);
    assert_eq!(foreign, [".snapshots/", "not-\u{fffd}-utf8"]);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 22);
}

/// Not a figure, only a guard: 40 MB in pieces of 100 bytes must not cost a thread switch per piece.
#[tokio::test]
async fn tiny_pieces_do_not_slow_a_large_file() {
    let place = tempfile::tempdir_in(crate::stage::quick_place()).unwrap();
    let storage = DirectoryStorage::open(place.path()).unwrap();
    let bytes = noise(1, 40_000_000);
    let begun = std::time::Instant::now();
    upload(&storage, "a", &bytes, 100, &PutOptions::default()).await.unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(read(&storage, "a", None).await.unwrap() == bytes);
}
