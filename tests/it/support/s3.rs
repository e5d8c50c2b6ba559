//! A bucket in a service that the test can make slow or stubborn. The service is `s3s-fs`, which runs in the test,
//! checks signatures and keeps its buckets in a directory. Of the S3 services in package registries it is the one that
//! is maintained and needs no other process or language.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use futures::{StreamExt, stream};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::{Semaphore, watch};

use super::PATIENCE;
use super::worker::files_below;

type Answer = Response<Body>;

/// Open uploads on a page of their list; S3 has 1,000.
const UPLOADS_OF_A_PAGE: usize = 2;

/// A bucket called `bucket`, served until the runtime ends.
pub struct Bucket {
    /// The service's address.
    pub endpoint: String,
    /// Where the service keeps its files.
    root: tempfile::TempDir,
    control: Arc<Control>,
}

struct Control {
    /// Requests whose method and path contain any of these wait.
    held: watch::Sender<Vec<String>>,
    waiting: watch::Sender<Waiting>,
    /// How many of those that wait may go on nevertheless.
    passes: Semaphore,
    /// The second half of the answers to requests whose method and path contain any of these waits.
    halved: watch::Sender<Vec<String>>,
    /// Requests whose method and path contain any of these are refused. So are files in a request to delete many, whose
    /// key comes after it, as in `POST /bucket?delete jobs/`.
    refused: Mutex<Vec<String>>,
    /// Open multipart uploads: the key of each id. The service cannot list them.
    uploads: Mutex<BTreeMap<String, String>>,
}

/// The requests that wait.
#[derive(Default)]
struct Waiting {
    now: usize,
    /// Most that waited at the same time.
    most: usize,
    /// Those that have waited and those that do.
    ever: usize,
}

impl Bucket {
    pub async fn serve() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bucket")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let control = Arc::new(Control {
            held: watch::Sender::new(Vec::new()),
            waiting: watch::Sender::new(Waiting::default()),
            passes: Semaphore::new(0),
            halved: watch::Sender::new(Vec::new()),
            refused: Mutex::default(),
            uploads: Mutex::default(),
        });
        let controlled = control.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (service, control) = (service.clone(), controlled.clone());
                let answer = service_fn(move |request| {
                    let (service, control) = (service.clone(), control.clone());
                    async move { Ok::<_, std::convert::Infallible>(control.answer(&service, request).await) }
                });
                let connection = Builder::new(TokioExecutor::new());
                tokio::spawn(async move { drop(connection.serve_connection(TokioIo::new(socket), answer).await) });
            }
        });
        Self { endpoint, root, control }
    }

    /// What tells a process where the service is. Without the last variable, files are removed by the request to delete
    /// many; with it, each deletion is a request of its own, which a test can hold.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let variables = [
            ("AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DISABLE_BULK_DELETE", "true"),
        ];
        variables.map(|(name, value)| (name, value.to_owned())).into()
    }

    /// The file of a key.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.path().join("bucket").join(key)
    }

    /// Stores a file without a request.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The keys of all files, without those that the service keeps for itself, whose names begin with a dot.
    pub fn files(&self) -> Vec<String> {
        let mut found = files_below(&self.root.path().join("bucket"));
        found.retain(|path| !path.rsplit('/').next().is_some_and(|name| name.starts_with('.')));
        found
    }

    /// The keys of all multipart uploads that were neither completed nor aborted, sorted.
    pub fn open_uploads(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.control.uploads.lock().unwrap().values().cloned().collect();
        keys.sort();
        keys
    }

    /// Lets requests whose method and path contain these words wait, as `DELETE /bucket/jobs/`.
    pub fn hold(&self, words: &str) {
        self.control.held.send_replace(vec![words.to_owned()]);
    }

    /// Lets all requests go on.
    pub fn release(&self) {
        self.control.held.send_replace(Vec::new());
    }

    /// Holds back the second half of the answers to requests whose method and path contain these words.
    pub fn halve(&self, words: &str) {
        self.control.halved.send_replace(vec![words.to_owned()]);
    }

    /// Lets the second halves go on.
    pub fn complete(&self) {
        self.control.halved.send_replace(Vec::new());
    }

    /// Lets one of the requests go on that wait.
    pub fn release_one(&self) {
        self.control.passes.add_permits(1);
    }

    /// Waits until so many requests wait.
    pub async fn until_waiting(&self, count: usize) {
        self.until(|waiting| waiting.now >= count).await;
    }

    /// Waits until so many requests wait or have waited.
    pub async fn until_waited(&self, count: usize) {
        self.until(|waiting| waiting.ever >= count).await;
    }

    /// Most requests that have waited at the same time.
    pub fn most_waiting(&self) -> usize {
        self.control.waiting.borrow().most
    }

    async fn until(&self, is_reached: impl FnMut(&Waiting) -> bool) {
        let mut waiting = self.control.waiting.subscribe();
        let reached = tokio::time::timeout(PATIENCE, waiting.wait_for(is_reached)).await;
        reached.expect("the requests come").expect("the bucket is there");
    }

    /// Refuses requests whose method and path contain these words, or none.
    pub fn refuse(&self, words: Option<&str>) {
        *self.control.refused.lock().unwrap() = words.map(str::to_owned).into_iter().collect();
    }
}

impl Control {
    async fn answer(&self, service: &S3Service, request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let query = request.uri().query().unwrap_or_default().to_owned();
        let line = format!("{method} {path}?{query}");
        let contains = |words: &Vec<String>| words.iter().any(|words| line.contains(words));
        if contains(&self.refused.lock().unwrap()) {
            return answer(StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>".to_owned());
        }
        if contains(&self.held.borrow()) {
            self.wait_while(contains).await;
        }
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        if method == Method::GET && has("uploads") {
            return answer(StatusCode::OK, self.list_uploads(&query));
        }
        let (head, body) = request.into_parts();
        let body = if method == Method::POST && has("delete") {
            let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.expect("a whole body");
            let refused = refusals(&String::from_utf8_lossy(&body), |key| {
                let line = format!("{line} {key}");
                self.refused.lock().unwrap().iter().any(|words| line.contains(words))
            });
            if !refused.is_empty() {
                return answer(StatusCode::OK, format!("<DeleteResult>{refused}</DeleteResult>"));
            }
            s3s::Body::from(body)
        } else {
            s3s::Body::from(body)
        };
        let response = service.call(Request::from_parts(head, body)).await.expect("the service answers");
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.expect("a whole body");
        if head.status.is_success() {
            let key = path.trim_start_matches("/bucket/").to_owned();
            let value = query.split('&').find_map(|pair| pair.strip_prefix("uploadId="));
            let mut uploads = self.uploads.lock().unwrap();
            match (method, value) {
                (Method::POST, None) if has("uploads") => {
                    let text = String::from_utf8_lossy(&body);
                    let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once('<')).unwrap().0;
                    uploads.insert(id.to_owned(), key);
                }
                (Method::POST | Method::DELETE, Some(id)) => drop(uploads.remove(id)),
                _ => {}
            }
        }
        let is_halved = contains(&self.halved.borrow());
        let body = if is_halved { in_halves(body, self.halved.subscribe()) } else { body.into() };
        Response::from_parts(head, body)
    }

    /// Waits as long as such requests are held, or until one may go on nevertheless.
    async fn wait_while(&self, is_held: impl Fn(&Vec<String>) -> bool) {
        self.waiting.send_modify(|waiting| {
            waiting.now += 1;
            waiting.ever += 1;
            waiting.most = waiting.most.max(waiting.now);
        });
        let released = async {
            let _ = self.held.subscribe().wait_for(|held| !is_held(held)).await;
        };
        tokio::select! {
            () = released => {}
            pass = self.passes.acquire() => pass.expect("nobody closes it").forget(),
        }
        self.waiting.send_modify(|waiting| waiting.now -= 1);
    }

    /// A page of the open uploads, which begins after the markers of the query.
    fn list_uploads(&self, query: &str) -> String {
        let url = reqwest::Url::parse(&format!("http://bucket/?{query}")).expect("a query");
        let marker =
            |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
        let marker: Option<(String, String)> = marker("key-marker").zip(marker("upload-id-marker"));
        let uploads = self.uploads.lock().unwrap();
        let mut uploads: Vec<_> = uploads.iter().map(|(id, key)| (key.clone(), id.clone())).collect();
        uploads.sort();
        uploads.retain(|upload| marker.as_ref().is_none_or(|marker| upload > marker));
        let is_truncated = uploads.len() > UPLOADS_OF_A_PAGE;
        uploads.truncate(UPLOADS_OF_A_PAGE);
        let next = uploads.last().filter(|_| is_truncated).map(|(key, id)| {
            format!("<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>")
        });
        let uploads = uploads.iter().map(|(key, id)| {
            format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
            )
        });
        let (uploads, next): (String, String) = (uploads.collect(), next.into_iter().collect());
        format!(
            "<ListMultipartUploadsResult>{next}<IsTruncated>{is_truncated}</IsTruncated>{uploads}\
             </ListMultipartUploadsResult>"
        )
    }
}

/// A body whose second half waits until no bodies are halved any more.
fn in_halves(mut first: Bytes, mut halved: watch::Receiver<Vec<String>>) -> Body {
    let second = first.split_off(first.len() / 2);
    let second = async move {
        let _ = halved.wait_for(Vec::is_empty).await;
        second
    };
    let halves = stream::once(std::future::ready(first)).chain(stream::once(second));
    Body::from_stream(halves.map(Ok::<_, std::convert::Infallible>))
}

/// The errors for the keys in a request to delete many that are refused. None of its other files is removed then.
fn refusals(request: &str, is_refused: impl Fn(&str) -> bool) -> String {
    let keys = request.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
    let errors = keys
        .filter(|key| is_refused(key))
        .map(|key| format!("<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"));
    errors.collect()
}

fn answer(status: StatusCode, text: String) -> Answer {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
}
