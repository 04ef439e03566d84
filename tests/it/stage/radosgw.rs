//! A whole Ceph object gateway: monitor, one in-memory OSD, radosgw. The real one with versions, locks, conditional
//! writes and SSE-KMS (testing back end). Takes about 12 s to start and 150 MB: one test uses it for everything.
//!
//! Nobody but this process reaches it: all daemons bind to loopback. It has one user, with the tests' fixed keys.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::s3::{ACCESS_KEY, SECRET_KEY};
use super::server::{Running, free_port, run};

const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";
const OSD: &str = "99999999-2222-3333-4444-555555555555";

/// Name of the key that SSE-KMS knows.
pub const KMS_KEY: &str = "testkey";

pub struct RadosGateway {
    port: u16,
    // Dropped in this order: the gateway first.
    _servers: [Running; 3],
    _folder: TempDir,
}

impl RadosGateway {
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("rgw-").unwrap();
        let (place, monitor_port, port) = (folder.path(), free_port(), free_port());
        fs::write(place.join("ceph.conf"), configuration(place, monitor_port, port)).unwrap();
        make_keyring(place);
        let monitor = start_monitor(place, monitor_port);
        let osd = start_osd(place);
        let gateway = Running::start("radosgw", place, &["-c", "ceph.conf", "-n", "client.rgw", "-f"]).listens_on(port);
        let user = ["--uid", "test", "--display-name", "test", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY];
        run("radosgw-admin", place, &[&["-c", "ceph.conf", "user", "create"][..], &user].concat());
        Self { port, _servers: [gateway, osd, monitor], _folder: folder }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn configuration(place: &Path, monitor: u16, gateway: u16) -> String {
    let place = place.display();
    format!(
        "[global]
fsid = {CLUSTER}
mon_host = v2:127.0.0.1:{monitor}/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = {place}/keyring
run_dir = {place}
admin_socket = {place}/$name.asok
log_file = {place}/$name.log
mon_data = {place}/mon
osd_data = {place}/osd
mon_data_avail_crit = 0
osd_objectstore = memstore
memstore_device_bytes = 1073741824
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
rgw_frontends = beast endpoint=127.0.0.1:{gateway}
rgw_override_bucket_index_max_shards = 1
rgw_enable_gc_threads = false
rgw_enable_lc_threads = false
rgw_crypt_require_ssl = false
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = {KMS_KEY}=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
"
    )
}

fn make_keyring(place: &Path) {
    run("ceph-authtool", place, &["--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]);
    for (name, monitor_may) in [("client.admin", "allow *"), ("client.rgw", "allow *"), ("osd.0", "allow profile osd")]
    {
        let caps = ["--cap", "mon", monitor_may, "--cap", "osd", "allow *"];
        run("ceph-authtool", place, &[&["keyring", "--gen-key", "-n", name][..], &caps].concat());
    }
}

fn start_monitor(place: &Path, port: u16) -> Running {
    let address = format!("[v2:127.0.0.1:{port}]");
    run("monmaptool", place, &["--create", "--addv", "a", &address, "--fsid", CLUSTER, "monmap"]);
    let make = ["-c", "ceph.conf", "-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "keyring"];
    run("ceph-mon", place, &make);
    Running::start("ceph-mon", place, &["-c", "ceph.conf", "-i", "a", "-f"]).listens_on(port)
}

fn start_osd(place: &Path) -> Running {
    run("ceph", place, &["-c", "ceph.conf", "osd", "new", OSD]);
    fs::create_dir(place.join("osd")).unwrap();
    run("ceph-osd", place, &["-c", "ceph.conf", "-i", "0", "--mkfs", "--osd-uuid", OSD]);
    Running::start("ceph-osd", place, &["-c", "ceph.conf", "-i", "0", "-f"])
}
