//! Promise: uploads share the server: slow ones hold no place for long, and what was begun holds its place to its end.

use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::api::{Answer, Api, checkpoint};
use distillery::db::tokens::{self, Scope};
use futures::StreamExt;
use reqwest::Method;
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A body that sends a byte from time to time and never ends.
fn trickle() -> reqwest::Body {
    let bytes = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, std::io::Error>(vec![b'{']), ()))
    });
    reqwest::Body::wrap_stream(bytes)
}

fn begin(api: &Api, token: Option<&str>, body: reqwest::Body) -> JoinHandle<Answer> {
    let request = api.request(Method::PUT, "/v1/checkpoints").body(body);
    let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
    tokio::spawn(async move { Answer::read(request.send().await.expect("the server answers")).await })
}

#[tokio::test]
async fn uploads_that_trickle_in_end_and_let_others_in_meanwhile() {
    let api = Api::start_with(|settings| settings.upload_timeout = Duration::from_millis(500)).await;
    let slow: Vec<_> = (0..8).map(|_| begin(&api, None, trickle())).collect();
    // The first of them may be over before the last has begun, but all of them take longer than this.
    api.upload("", checkpoint("resnet8", 10)).await.expect(201);
    for upload in slow {
        upload.await.unwrap().says(408, &["too slow", "65536 bytes"]);
    }
}

/// An upload that has its place and sends nothing.
async fn silent(api: &Api) -> TcpStream {
    let address = api.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PUT /v1/checkpoints HTTP/1.1\r\nhost: {address}\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    // Asked for its bytes once it has its place.
    let mut asked = [0; 25];
    connection.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection
}

async fn rest(mut connection: TcpStream) -> String {
    let mut rest = String::new();
    connection.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn slow_uploads_that_take_all_places_give_way_to_others() {
    let api = Api::start_with(|settings| {
        settings.uploads = 2;
        settings.upload_timeout = Duration::from_millis(200);
        settings.upload_least = 0;
    })
    .await;
    let (one, other) = (silent(&api).await, silent(&api).await);
    let until_stored = async {
        loop {
            let answer = api.upload("", checkpoint("resnet8", 10)).await;
            if answer.status != 503 {
                return answer;
            }
        }
    };
    let stored = tokio::time::timeout(PATIENCE, until_stored).await.expect("a slow upload gives way");
    stored.expect(201);
    let ended = tokio::select! {
        ended = rest(one) => ended,
        ended = rest(other) => ended,
    };
    assert!(ended.starts_with("HTTP/1.1 408") && ended.contains("the slowest, with less than 262144 bytes"), "{ended}");
}

#[tokio::test]
async fn an_upload_that_is_slow_and_goes_on_succeeds() {
    let api = Api::start_with(|settings| {
        settings.upload_timeout = Duration::from_secs(2);
        settings.upload_least = 1;
    })
    .await;
    let bytes = checkpoint("resnet8", 10);
    let pieces: Vec<_> = bytes.chunks(bytes.len() / 20).map(<[u8]>::to_vec).collect();
    // Longer than the timeout in all, and much shorter than it between two pieces.
    let body = futures::stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(125)).await;
        Ok::<_, std::io::Error>(piece)
    });
    api.upload("", reqwest::Body::wrap_stream(body)).await.expect(201);
}

/// Begins an upload that sends its first bytes and then waits until the sender is dropped, and uploads until that is
/// refused because of the first one. Whichever comes first wins, so the first one is begun again if it was refused.
async fn refused_meanwhile(api: &Api, token: Option<&str>, bytes: Vec<u8>) -> (Answer, JoinHandle<Answer>, Sender) {
    let begin_waiting = || {
        let (send, receive) = futures::channel::mpsc::unbounded();
        send.unbounded_send(Ok(bytes.clone())).unwrap();
        (begin(api, token, reqwest::Body::wrap_stream(receive)), send)
    };
    let (mut waiting, mut send) = begin_waiting();
    loop {
        let answer = begin(api, token, bytes.clone().into()).await.unwrap();
        if waiting.is_finished() {
            (waiting, send) = begin_waiting();
        } else if answer.status == 503 {
            return (answer, waiting, send);
        }
    }
}

type Sender = futures::channel::mpsc::UnboundedSender<std::io::Result<Vec<u8>>>;

#[tokio::test]
async fn no_token_takes_every_place() {
    let api = Api::start_with(|settings| settings.uploads_per_token = 1).await;
    for secret in ["dst_one", "dst_two"] {
        tokens::create(&api.db.pool, secret, Scope::Submit, &tokens::hash(secret)).await.unwrap();
    }
    let (refused, waiting, _send) = refused_meanwhile(&api, Some("dst_one"), vec![b'{'; 1000]).await;
    refused.says(503, &["with this token"]);
    begin(&api, Some("dst_two"), checkpoint("resnet8", 11).into()).await.unwrap().expect(201);
    waiting.abort();
}

#[tokio::test]
async fn more_bytes_than_the_disk_has_room_for_are_refused_while_others_are_received() {
    let api = Api::start_with(|settings| {
        settings.checkpoint_limit = 1_000_000;
        settings.dataset_limit = 1_000_000;
        settings.spool_limit = 1_500_000;
    })
    .await;
    let (refused, waiting, send) = refused_meanwhile(&api, None, vec![b'{'; 900_000]).await;
    refused.says(503, &["too many bytes"]);
    drop(send);
    waiting.await.unwrap().problem(422);
    api.upload("", vec![b'{'; 900_000]).await.problem(422);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_its_place_to_nobody_until_its_file_is_stored() {
    let api = Api::start_with(|settings| settings.uploads = 1).await;
    let first = api.upload("", checkpoint("resnet8", 10)).await.expect(201);
    // The row of the checkpoint is held, so that storing it again waits.
    let mut holder = api.db.pool.begin().await.unwrap();
    let row = format!("select from checkpoints where id = '{}' for update", first["id"].as_str().unwrap());
    holder.execute(sqlx::AssertSqlSafe(row)).await.unwrap();
    let again = begin(&api, None, checkpoint("resnet8", 10).into());
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&api.db.pool).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    again.abort();
    assert!(again.await.unwrap_err().is_cancelled());
    for _ in 0..20 {
        api.upload("", checkpoint("resnet8", 11)).await.says(503, &["too many uploads"]);
    }
    holder.rollback().await.unwrap();
    while api.upload("", checkpoint("resnet8", 11)).await.status == 503 {}
}

#[tokio::test]
async fn a_client_that_reads_nothing_before_it_has_sent_all_gets_the_reason_of_a_refusal() {
    let api = Api::start_with(|settings| settings.checkpoint_limit = 1000).await;
    let address = api.url.strip_prefix("http://").unwrap();
    // More than the sockets of both sides hold.
    let body = vec![0; 32 << 20];
    for (path, reason) in [
        ("datasets/ten", "upload the data set under another name"),
        ("datasets/ten@1", "an uploaded data set cannot be called"),
        ("checkpoints", "1000 bytes"),
    ] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!("PUT /v1/{path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        let read = async {
            while !String::from_utf8_lossy(&answer).contains(reason) {
                assert!(connection.read_buf(&mut answer).await.unwrap() > 0, "{path} is answered");
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the reason comes");
    }
}
