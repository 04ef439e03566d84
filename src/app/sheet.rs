//! The texts that `init` leaves behind: dbagent.toml with a line on each key, and the break-glass sheet.
//!
//! Only wording; what is true at a site comes in as values. The sheet holds no secret and must be readable by somebody
//! who has never seen this program, on a day on which it cannot be had.

use chrono::{DateTime, Utc};

use crate::config::Profile;
use crate::pipeline::openpgp::KeyPair;

/// What differs in dbagent.toml, each already written as TOML.
pub(super) struct Values {
    pub(super) cluster: String,
    pub(super) postgres_url: String,
    pub(super) repository_name: &'static str,
    pub(super) repository: String,
    pub(super) recipients: String,
    pub(super) fingerprints: String,
    pub(super) profile: Profile,
    pub(super) decryption_key_is_named: bool,
}

/// The text of dbagent.toml.
pub(super) fn configuration(values: &Values) -> String {
    let Values { cluster, postgres_url, repository_name, repository, recipients, fingerprints, .. } = values;
    let second = match *repository_name {
        "local" => {
            "\n# A second one, off this host; the plan's rules for \"s3\" count once it is here.\n\
             # [repository.s3]\n# url = \"s3://bucket/prefix\"\n"
        }
        _ => "",
    };
    let profile = match values.profile {
        Profile::GnuPg => "",
        Profile::Rfc9580 => {
            "profile = \"rfc9580\"   # several times faster than the default, and GnuPG cannot read it\n"
        }
    };
    let decryption_key = match values.decryption_key_is_named {
        true => "decryption_key = \"restore-key.asc\"   # opens backups; only where restores run",
        false => {
            "# The private key is left out on purpose: a host that only makes backups should not be able to read them, so\n\
             # that whoever breaks into it cannot either. Name it where restores run, and while they run:\n\
             # decryption_key = \"restore-key.asc\""
        }
    };
    format!(
        r#"# dbagent.toml, written by dbagent init. `dbagent config example` shows every key, `dbagent config check` reads this.
# Relative paths begin at this file's folder. A variable beats a key: DBAGENT_POSTGRES__URL=postgres://…

cluster = {cluster}   # name in the repository, the metrics and the report; do not change it later
plan = "bc-003"   # the jobs: a built-in plan ("bc-003", "dify", "managed") or the path of one of your own
state_dir = "state"   # run history and caches; losing it loses no backup

[postgres]
url = {postgres_url}   # the server, the login and the database; PG* variables fill what is missing
# password_file = "/run/secrets/pg_password"   # the login's password, in a file of mode 0600

[repository.{repository_name}]
url = {repository}   # where backups are kept
{second}
[encryption]
{profile}recipients = [{recipients}]   # certificates that backups are encrypted to
fingerprints = [{fingerprints}]   # theirs in full: another certificate in its place is refused
signing_key = "signing.asc"   # signs what is stored, so that nobody can slip in or alter a backup
{decryption_key}

[verification]
certificates = ["signing-certificate.asc"]   # whose signatures are believed; keep old ones here when the key changes
"#
    )
}

/// The sheet for the day on which everything else is gone.
pub(super) fn break_glass(
    cluster: &str,
    repository: &str,
    profile: Profile,
    pair: &KeyPair,
    signing: &KeyPair,
    now: DateTime<Utc>,
) -> String {
    let sequoia = match profile {
        Profile::GnuPg => "",
        Profile::Rfc9580 => {
            "\n   GnuPG cannot read these backups. Where it says gpg -d below, type\n     \
             sq decrypt --recipient-file restore-key.asc                          (Sequoia's sq; once --recipient-key)\n"
        }
    };
    let (date, backup, signing) = (now.format("%Y-%m-%d"), &pair.fingerprint, &signing.fingerprint);
    format!(
        r#"BREAK GLASS: how to get the database {cluster} back

Written {date} by dbagent init. Print this and keep it, with signing-certificate.asc, beside the
private key. It holds no secret itself.

1. THE PRIVATE KEY: restore-key.asc
   Without it no backup can be read, by anybody, ever. With it everybody can read them all.
   - Copy it to two places that do not burn down together and are not this host: a password safe, and a medium in a
     locked drawer (it is 1 kB of text; paper will do).
   - Compare what arrived:  gpg --show-keys restore-key.asc  must show the first fingerprint below.
   - Then delete it here:   shred -u restore-key.asc
   It has no passphrase: whoever holds the file can use it.

   backups are encrypted to   {backup}
   backups are signed by      {signing}
   backups are kept in        {repository}
{sequoia}
2. RESTORE WITH DBAGENT
   Bring restore-key.asc to a host with PostgreSQL, dbagent and dbagent.toml (chmod 600 restore-key.asc), then:
     export DBAGENT_ENCRYPTION__DECRYPTION_KEY=/path/to/restore-key.asc
     dbagent backup list
     dbagent restore --database NAME --to-database NAME_restored            (a whole database, beside)
     dbagent restore --table users --mode replace                          (one table, made equal to the backup)
   To a moment, where base backups and the log are kept: name the key in dbagent.toml instead (decryption_key = …),
   because PostgreSQL calls dbagent by itself and sees no variable, and work as the user that PostgreSQL runs as:
     dbagent status                                                        (which moments there are)
     dbagent restore --to /new/data --target-time "2026-01-05 14:30 UTC" --start
   Take the key away again afterwards.

3. RESTORE WITHOUT DBAGENT
   Any host with gpg 2.2, gunzip and PostgreSQL's programs will do. A backup is a few files that begin with the same
   STEM, such as full/bc003_full_20260105_030000. In its folder:
     gpg --import restore-key.asc signing-certificate.asc
     gpg --verify STEM.manifest.json.sig STEM.manifest.json                (signed by the second fingerprint above?)
     sha256sum -c STEM.sha256                                              (are the files whole?)
     gpg -d STEM.roles.sql.gz.gpg | gunzip | less                          (roles that must exist: create them)
     createdb NAME_restored
     gpg -d STEM.schema.dump.gz.gpg | gunzip > schema.dump
     pg_restore --section=pre-data -d NAME_restored schema.dump
     gpg -d STEM.dump.gz.gpg | gunzip | pg_restore --section=data -d NAME_restored
     pg_restore --section=post-data -d NAME_restored schema.dump
   (add --no-owner --no-privileges to pg_restore where the roles cannot be made)

4. TO A MOMENT, WITHOUT DBAGENT
   Needs zstd too, and the same major version of PostgreSQL, as its user. In base/LABEL, the newest before the moment
   whose backup.manifest.json has no "parent" (one that has is laid over its parents: deploy/runbooks/pitr.md):
     gpg --verify backup.manifest.json.sig backup.manifest.json
     sha256sum -c backup.sha256
     mkdir -m 700 /new/data
     for part in part-*.tar.zst.gpg; do gpg -d "$part" | zstd -d | tar x -C /new/data; done
     touch /new/data/recovery.signal
     cat >> /new/data/postgresql.auto.conf <<EOF
     archive_mode = off
     recovery_target_time = '2026-01-05 14:30:00+00'
     recovery_target_timeline = 'latest'
     restore_command = 'gpg --batch -d /repository/wal/*/*/%f.zst.gpg | zstd -dqo %p'
     EOF
     pg_ctl -D /new/data start                                             (its log says where it stopped)

5. PRACTISE. A key that has never opened anything is a hope. Once a month, where the key is (as in section 2):
     dbagent backup verify latest --deep                                   (what it opened is signed; check asks for it)
   Do section 3 once a quarter, on another host.
"#
    )
}
