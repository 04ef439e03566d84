//! Real GnuPG with a home of its own, agent included, that ends with the test.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A GnuPG home of its own, agent included.
pub(crate) struct Gpg(tempfile::TempDir);

impl Gpg {
    pub(crate) fn new() -> Self {
        let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
        std::fs::write(home.path().join("gpg-agent.conf"), "s2k-count 65536\n").unwrap();
        Self(home)
    }

    pub(crate) fn home(&self) -> &Path {
        self.0.path()
    }

    /// Runs gpg in batch mode; answers what it printed and whether it was content.
    pub(crate) fn try_run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new("gpg")
            .args(["--homedir", self.0.path().to_str().unwrap(), "--batch", "--no-tty", "--pinentry-mode", "loopback"])
            .args(["--trust-model", "always", "--quiet"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().unwrap()
        })
    }

    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let output = self.try_run(arguments, input);
        assert!(output.status.success(), "gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    pub(crate) fn import(&self, key: &[u8]) {
        self.run(&["--import"], key);
    }

    /// The full fingerprint of who.
    pub(crate) fn fingerprint(&self, who: &str) -> String {
        let listing = String::from_utf8(self.run(&["--with-colons", "--list-keys", who], b"")).unwrap();
        let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// Makes a key that signs, and a subkey that encrypts if `subkey` names its algorithm; answers the fingerprint.
    pub(crate) fn make(&self, who: &str, algorithm: &str, subkey: &str, expires: &str, more: &[&str]) -> String {
        let quick = ["--passphrase", "right", "--quick-generate-key", who, algorithm, "default", expires];
        self.run(&[more, &quick].concat(), b"");
        let fingerprint = self.fingerprint(who);
        if !subkey.is_empty() {
            let quick = ["--passphrase", "right", "--quick-add-key", &fingerprint, subkey, "encr", expires];
            self.run(&[more, &quick].concat(), b"");
        }
        fingerprint
    }

    /// The secret key, still locked by the passphrase `right`.
    pub(crate) fn secret(&self, who: &str) -> Vec<u8> {
        self.run(&["--passphrase", "right", "--export-secret-keys", who], b"")
    }

    pub(crate) fn public(&self, who: &str) -> Vec<u8> {
        self.run(&["--armor", "--export", who], b"")
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").args(["--homedir", self.0.path().to_str().unwrap(), "--kill", "all"]).status();
    }
}
