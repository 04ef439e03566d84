//! What a plan's `[check]` names besides the agent's own: services that answer or do not.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use serde_json::Value;

use crate::cli::Desk;
use crate::stage::server::free_port;

/// A server on a port of its own that answers each line of a connection by `answer`; nothing ends the connection.
fn scripted(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            let (mut writer, mut line) = (socket, String::new());
            while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                match answer(line.trim_end()) {
                    Some(text) if writer.write_all(text.as_bytes()).is_ok() => {}
                    _ => break,
                }
                line.clear();
            }
        }
    });
    port
}

/// A web server that answers every request with `status`.
fn web(status: &'static str) -> u16 {
    scripted(move |line| match line {
        "" => Some(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")),
        _ => Some(String::new()),
    })
}

/// A Redis whose password is `secret`.
fn redis() -> u16 {
    let known = std::sync::atomic::AtomicBool::new(false);
    scripted(move |line| {
        use std::sync::atomic::Ordering::SeqCst;
        Some(match line {
            "secret" => {
                known.store(true, SeqCst);
                "+OK\r\n".to_owned()
            }
            "wrong" => "-WRONGPASS invalid username-password pair\r\n".to_owned(),
            "PING" if known.load(SeqCst) => "+PONG\r\n".to_owned(),
            "PING" => "-NOAUTH Authentication required.\r\n".to_owned(),
            _ => String::new(),
        })
    })
}

/// Status and message of every line of the check `name`.
pub fn lines(desk: &Desk, name: &str) -> Vec<(String, String)> {
    let output = desk.command(&["check", "--json"]).output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = value["checks"].as_array().unwrap().iter().filter(|line| line["check"] == name);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.map(|line| (text(&line["status"]), text(&line["message"]))).collect()
}

pub fn statuses(desk: &Desk, name: &str) -> Vec<String> {
    lines(desk, name).into_iter().map(|(status, _)| status).collect()
}

pub fn with_checks(desk: &Desk, checks: &str) {
    let plan = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, format!("{text}[check]\n{checks}")).unwrap();
}

fn secret_file(desk: &Desk, name: &str, text: &str) -> String {
    let path = desk.site.root().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn services_that_do_not_answer_fail_each_by_its_own_line_and_no_password_is_told() {
    let desk = Desk::new();
    let (good, bad, cache, nobody) = (web("200 OK"), web("503 Service Unavailable"), redis(), free_port());
    let (right, wrong) = (secret_file(&desk, "right", "secret\n"), secret_file(&desk, "wrong", "wrong\n"));
    let log = desk.site.root().join("app.log");
    std::fs::write(&log, "all is well\n2026 ERROR out of cheese\n").unwrap();
    with_checks(
        &desk,
        &format!(
            "http = ['http://127.0.0.1:{good}/health', 'http://127.0.0.1:{bad}/', 'http://127.0.0.1:{nobody}/']\n\
             tcp = ['127.0.0.1:{good}', '127.0.0.1:{nobody}']\n\
             redis = [{{ address = '127.0.0.1:{cache}', password_file = '{right}' }}, \
             {{ address = '127.0.0.1:{cache}', password_file = '{wrong}' }}, {{ address = '127.0.0.1:{nobody}' }}]\n\
             log = [{{ file = '{log}' }}, {{ file = '{log}.gone' }}]\nmemory_percent = 100\ncpu_percent = 1\n",
            log = log.display()
        ),
    );
    assert_eq!(statuses(&desk, "service-http"), ["ok", "fail", "fail"]);
    let told = lines(&desk, "service-http");
    assert!(told[1].1.contains("503") && told[2].1.contains("refused"), "{told:?}");
    assert_eq!(statuses(&desk, "service-tcp"), ["ok", "fail"]);
    let told = lines(&desk, "service-redis");
    assert_eq!(told.iter().map(|line| line.0.as_str()).collect::<Vec<_>>(), ["ok", "fail", "fail"], "{told:?}");
    assert!(told[1].1.contains("WRONGPASS") && !told.iter().any(|line| line.1.contains("secret")), "{told:?}");
    let told = lines(&desk, "log-errors");
    assert!(told[0].0 == "warn" && told[0].1.contains("out of cheese") && told[1].0 == "fail", "{told:?}");
    assert_eq!(statuses(&desk, "machine-memory"), ["ok"]);
    assert_eq!(lines(&desk, "machine-processors").len(), 1);
}

#[test]
fn a_service_that_never_answers_is_given_up() {
    let desk = Desk::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    with_checks(&desk, &format!("http = ['http://127.0.0.1:{port}/']\n"));
    let told = lines(&desk, "service-http");
    assert!(told[0].0 == "fail" && told[0].1.contains("no answer within 10 seconds"), "{told:?}");
}
