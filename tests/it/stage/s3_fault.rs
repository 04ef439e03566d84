//! Faults on request, in front of the in-process S3 server: a list of rules, each says which requests it answers, how
//! often, and with what. Every request and every firing is recorded, so that a test can prove its fault fired.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use hyper::body::Incoming;
use s3s::dto::StreamingBlob;
use s3s::service::S3Service;
use s3s::{Body, HttpError};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Answered without asking the server: HTTP status, S3 error code, headers.
    Answer(u16, &'static str, Vec<(&'static str, String)>),
    /// Carried out, but the connection is closed instead of an answer.
    LoseAnswer,
    /// Carried out, but answered with an HTTP status and an S3 error code.
    CarryOutAndAnswer(u16, &'static str),
    /// The connection is closed; nothing is carried out.
    Close,
    /// Never answered.
    Hang,
    /// Carried out after a wait.
    Delay(Duration),
    /// The body of the answer ends after so many bytes, by a closed connection.
    CutAt(usize),
    /// The body of the answer stops after so many bytes; the connection stays open.
    StallAt(usize),
    /// One byte of the answer's body is another one.
    FlipByte(usize),
    /// One header of the answer is another one.
    Header(&'static str, &'static str),
}

/// One fault: which requests, how often, what.
#[derive(Clone, Debug)]
pub struct Rule {
    method: &'static str,
    target: &'static str,
    skip: usize,
    times: usize,
    action: Action,
}

impl Rule {
    /// Answers the first request of `method` whose path and query contain `target` by `action`.
    pub fn once(method: &'static str, target: &'static str, action: Action) -> Self {
        Self { method, target, skip: 0, times: 1, action }
    }

    /// The same, for the first `times` such requests.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// The same, after `skip` such requests were let through.
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: axum::http::HeaderMap,
}

#[derive(Default)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    fired: Mutex<usize>,
    requests: Mutex<Vec<Seen>>,
}

impl Faults {
    pub fn add(&self, rule: Rule) {
        self.rules.lock().unwrap().push(rule);
    }

    pub fn clear(&self) {
        self.rules.lock().unwrap().clear();
    }

    pub fn fired(&self) -> usize {
        *self.fired.lock().unwrap()
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }

    fn action(&self, seen: Seen) -> Option<Action> {
        let mut rules = self.rules.lock().unwrap();
        let mut chosen = None;
        for rule in rules.iter_mut() {
            if rule.times == 0 || rule.method != seen.method || !seen.target.contains(rule.target) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            *self.fired.lock().unwrap() += 1;
            chosen = Some(rule.action.clone());
            break;
        }
        self.requests.lock().unwrap().push(seen);
        chosen
    }
}

/// The server's front door.
#[derive(Clone)]
pub struct Front {
    service: S3Service,
    faults: Arc<Faults>,
}

impl Front {
    pub fn new(service: S3Service, faults: Arc<Faults>) -> Self {
        Self { service, faults }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let seen = Seen {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: request.headers().clone(),
        };
        let Some(action) = self.faults.action(seen) else { return self.carry_out(request).await };
        match action {
            Action::Answer(status, code, headers) => {
                // The body is read first: a client that is cut while it sends may never see the answer.
                drop(Body::from(request.into_body()).try_collect::<Vec<_>>().await);
                Ok(error_answer(status, code, &headers))
            }
            Action::LoseAnswer => {
                self.carry_out(request).await?;
                Err(closed())
            }
            Action::CarryOutAndAnswer(status, code) => {
                self.carry_out(request).await?;
                Ok(error_answer(status, code, &[]))
            }
            Action::Close => Err(closed()),
            Action::Hang => std::future::pending().await,
            Action::Delay(wait) => {
                tokio::time::sleep(wait).await;
                self.carry_out(request).await
            }
            Action::Header(name, value) => {
                let mut answer = self.carry_out(request).await?;
                answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
                Ok(answer)
            }
            Action::CutAt(_) | Action::StallAt(_) | Action::FlipByte(_) => {
                Ok(mangled(self.carry_out(request).await?, action).await)
            }
        }
    }

    async fn carry_out(&self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        self.service.call(request.map(Body::from)).await
    }
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, HttpError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

fn closed() -> HttpError {
    HttpError::new("the fault closes the connection".into())
}

fn error_answer(status: u16, code: &str, headers: &[(&'static str, String)]) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>by request of the test</Message></Error>"
    );
    let mut answer = Response::new(Body::from(if code.is_empty() { String::new() } else { xml }));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        answer.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    answer
}

/// The same answer with its body cut, stalled or changed; the announced length stays.
async fn mangled(answer: Response<Body>, action: Action) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let pieces: Vec<Bytes> = body.try_collect().await.unwrap();
    let mut bytes = pieces.concat();
    let (keep, rest) = match action {
        Action::CutAt(at) => (at, Rest::Cut),
        Action::StallAt(at) => (at, Rest::Stall),
        Action::FlipByte(at) => {
            bytes[at] ^= 0x20;
            (bytes.len(), Rest::End)
        }
        other => unreachable!("{other:?} leaves the body alone"),
    };
    bytes.truncate(keep);
    let first = futures_util::stream::iter([Ok(Bytes::from(bytes))]);
    let tail = match rest {
        Rest::End => futures_util::stream::empty().boxed(),
        Rest::Cut => futures_util::stream::iter([Err(std::io::Error::other("cut"))]).boxed(),
        Rest::Stall => futures_util::stream::pending().boxed(),
    };
    let body = StreamingBlob::wrap(SyncStream(Mutex::new(first.chain(tail).boxed())));
    Response::from_parts(parts, Body::from(s3s::stream::DynByteStream::from(body)))
}

enum Rest {
    End,
    Cut,
    Stall,
}

type Pieces = futures_util::stream::BoxStream<'static, Result<Bytes, std::io::Error>>;

/// A stream that may be shared between threads because only one of them can reach it at a time.
struct SyncStream(Mutex<Pieces>);

impl futures_util::Stream for SyncStream {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.get_mut().0.get_mut().unwrap().poll_next_unpin(context)
    }
}
