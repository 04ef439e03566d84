//! A password that AWS Secrets Manager keeps and rotates, with moto in its place.

use std::process::Command;

use crate::cli::Desk;
use crate::stage::moto::Moto;
use crate::stage::site::Site;

struct Vault {
    moto: Moto,
}

impl Vault {
    /// Does `action` (of the API) on the secret `prod/pg`, over plain HTTP as moto takes it.
    fn call(&self, action: &str, body: &str) {
        let done = Command::new("curl")
            .args(["-sf", "-X", "POST", &self.moto.endpoint(), "-H", &format!("X-Amz-Target: secretsmanager.{action}")])
            .args(["-H", "Content-Type: application/x-amz-json-1.1", "-d", body])
            .args(["-H", "Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=x"])
            .output()
            .unwrap();
        assert!(done.status.success(), "{action}: {}", String::from_utf8_lossy(&done.stdout));
    }

    /// Makes `login` the present version.
    fn rotate_to(&self, login: &str) {
        let login = serde_json::Value::from(login);
        self.call("PutSecretValue", &format!("{{\"SecretId\": \"prod/pg\", \"SecretString\": {login}}}"));
    }
}

/// A desk whose login is the role `keeper`, over TCP, by the secret `prod/pg`.
fn desk(vault: &Vault) -> Desk {
    let site = Site::with_passwords();
    site.ask("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'one'");
    let mut desk = Desk::at(site, &crate::stage::site::TABLES);
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let text: String = text
        .lines()
        .map(|line| match line {
            _ if line.starts_with("host = ") => {
                "host = '127.0.0.1'\nsslmode = 'disable'\npassword_aws_secret = 'prod/pg'\n".to_owned()
            }
            _ if line.starts_with("user = ") => String::new(),
            other => format!("{other}\n"),
        })
        .collect();
    std::fs::write(&desk.config, text).unwrap();
    desk.environment = vec![
        ("AWS_ENDPOINT_URL", vault.moto.endpoint()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "a".into()),
        ("AWS_SECRET_ACCESS_KEY", "b".into()),
    ];
    desk
}

#[test]
fn a_secret_is_read_anew_for_each_run_and_while_it_is_rotated_the_version_before_is_taken() {
    let vault = Vault { moto: Moto::start() };
    let login = |password: &str| format!("{{\"username\": \"keeper\", \"password\": \"{password}\"}}");
    let first = serde_json::Value::from(login("one"));
    vault.call("CreateSecret", &format!("{{\"Name\": \"prod/pg\", \"SecretString\": {first}}}"));
    let desk = desk(&vault);
    let dumped = |code: i32| desk.json(code, &["job", "run", "full"]);
    assert_eq!(dumped(0)["run"]["end"]["result"]["done"]["verdict"], "ok");

    // The secret is ahead of the server: only its previous version is taken, and that is told.
    vault.rotate_to(&login("two"));
    let run = desk.command(&["job", "run", "full"]).output().unwrap();
    let talk = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success() && talk.contains("previous version"), "{talk}");
    desk.site.ask("ALTER ROLE keeper PASSWORD 'two'");
    let run = desk.command(&["job", "run", "full"]).output().unwrap();
    assert!(run.status.success() && !String::from_utf8_lossy(&run.stderr).contains("previous version"));

    // Neither version: a refused login, without a password in what is said.
    desk.site.ask("ALTER ROLE keeper PASSWORD 'three'");
    let refused = dumped(12).to_string();
    assert!(refused.contains("keeper") && !refused.contains("two") && !refused.contains("\"one\""), "{refused}");
    vault.rotate_to("three");
    let text = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, text.replace("database = 'shop'", "database = 'shop'\nuser = 'keeper'")).unwrap();
    assert_eq!(dumped(0)["run"]["end"]["result"]["done"]["verdict"], "ok", "a password alone");

    std::fs::write(&desk.config, std::fs::read_to_string(&desk.config).unwrap().replace("prod/pg", "prod/nothing"))
        .unwrap();
    let refused = dumped(12).to_string();
    assert!(refused.contains("prod/nothing") && refused.contains("GetSecretValue"), "{refused}");
}
