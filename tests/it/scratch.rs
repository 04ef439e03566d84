//! A scratch server works, keeps to itself, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt as _;

use dbagent::steps::scratch::{ScratchOptions, ScratchServer};

#[tokio::test]
async fn a_scratch_server_runs_stops_and_leaves_nothing_behind() {
    let mut server = ScratchServer::start(ScratchOptions::default()).unwrap();
    let directory = server.directory().to_owned();
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);

    let session = server.connection().unwrap().connect().await.unwrap();
    let row = session.client().query_one("SHOW listen_addresses", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "");
    let row = session.client().query_one("SELECT pg_encoding_to_char(encoding) FROM pg_database", &[]).await;
    assert!(row.is_err(), "three databases, one row");
    assert_eq!(server.sql("SHOW data_checksums; SELECT 1, NULL, 'ü'").unwrap(), "on\n1||ü");
    assert!(server.sql("SELECT * FROM nothing").unwrap_err().to_string().contains("does not exist"));

    server.sql("CREATE TABLE kept (n int)").unwrap();
    let process = server.process_id().unwrap();
    server.stop();
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    server.resume().unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM kept").unwrap(), "0");

    let process = server.process_id().unwrap();
    drop(server);
    assert!(!directory.exists());
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
}

#[test]
fn a_scratch_server_is_gone_after_a_panic() {
    let (directory, process) = std::panic::catch_unwind(|| {
        let mut server = ScratchServer::start(ScratchOptions::default()).unwrap();
        let seen = (server.directory().to_owned(), server.process_id().unwrap());
        std::panic::resume_unwind(Box::new(seen));
    })
    .unwrap_err()
    .downcast::<(std::path::PathBuf, u32)>()
    .map(|seen| *seen)
    .unwrap();
    assert!(!directory.exists());
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
}
