//! Promise: answers that wait for clients to read them take a bounded amount of memory, and clients that do not read
//! take it from nobody for long.

use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::api::{Api, plain_job};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The same answer so often is more than the kernel keeps for a client.
const PIPELINED: usize = 16;
const LARGE: usize = 700_000;
/// Room for two such answers.
const LIMIT: u64 = 3 << 19;

/// A job with a request of [`LARGE`] bytes, which can be read back.
async fn large_job(api: &Api) -> String {
    let mut document = plain_job().to_string();
    document.insert_str(1, &" ".repeat(LARGE));
    let post = api.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body(document);
    api.send(post).await.expect(201)["id"].as_str().unwrap().to_owned()
}

/// Adds two series of so many points each.
async fn fill(api: &Api, id: &str, points: i64) {
    let insert = "insert into metrics (job_id, attempt, name, step, epoch, time, value)
        select $1, 1, name, step, step / 100.0, now(), step % 1009
        from generate_series(1, $2) as step, unnest(array['lr', 'train/loss']) as name";
    sqlx::query(insert).bind(id).bind(points).execute(&api.db.pool).await.unwrap();
}

/// A client that asks for a path so often, then for `/healthz`, and reads nothing.
async fn stalled(api: &Api, path: &str, times: usize) -> TcpStream {
    let address = api.url.strip_prefix("http://").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut connection = socket.connect(address.parse().unwrap()).await.unwrap();
    let mut text = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").repeat(times);
    text += &format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.write_all(text.as_bytes()).await.unwrap();
    connection
}

/// Reads what is left, and tells whether the last answer came, which asks for nothing large.
async fn is_answered(mut connection: TcpStream) -> bool {
    let mut all = Vec::new();
    // A connection that was closed may also end with a reset.
    let _ = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut all)).await.expect("the connection ends");
    all.ends_with(br#"{"status":"ok"}"#)
}

/// Whether the path is answered whole. If not, the server must have said that it can be asked for again.
async fn is_read(api: &Api, path: &str) -> bool {
    let Ok(answer) = api.request(Method::GET, path).send().await else { return false };
    let (status, headers) = (answer.status(), answer.headers().clone());
    if status == 503 {
        assert!(headers.contains_key("retry-after"), "{headers:?}");
        assert!(answer.text().await.unwrap().contains("read them slowly"));
        return false;
    }
    assert_eq!(status, 200);
    answer.bytes().await.is_ok_and(|body| body.len() > LARGE)
}

#[tokio::test]
async fn clients_that_read_too_slowly_give_way_to_others() {
    let api = Api::start_with(|settings| {
        settings.answers_limit = LIMIT;
        settings.answer_patience = Duration::ZERO;
        settings.answer_fair = u64::MAX;
    })
    .await;
    let id = large_job(&api).await;
    fill(&api, &id, 60_000).await;
    let whole = [
        (format!("/v1/jobs/{id}/submitted"), PIPELINED),
        (format!("/v1/jobs/{id}/metrics?max_points=100000"), 1),
        (format!("/v1/jobs/{id}/tensorboard"), 4),
    ];
    for (path, times) in &whole {
        // Until one of them was closed: in a round where others read before they stall, none needs to be.
        let rounds = async {
            loop {
                let mut open = Vec::new();
                for _ in 0..8 {
                    open.push(stalled(&api, path, *times).await);
                }
                while !is_read(&api, path).await {}
                let answered = futures::future::join_all(open.into_iter().map(is_answered)).await;
                if answered.contains(&false) {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, rounds).await.unwrap_or_else(|_| panic!("nobody gives way for {path}"));
    }
}

#[tokio::test]
async fn watchers_that_read_nothing_give_way_to_others() {
    let api = Api::start_with(|settings| {
        // Less than what waits in the connections of eight clients.
        settings.answers_limit = 64 << 10;
        settings.answer_patience = Duration::ZERO;
        settings.answer_fair = u64::MAX;
    })
    .await;
    let id = api.job().await;
    api.ask(&format!("/v1/jobs/{id}/cancel")).await.expect(202);
    // More than the kernel keeps for a client.
    let insert = "insert into events (job_id, seq, attempt, kind, message)
        select $1, number, 0, 'log', repeat('x', 8000) from generate_series(1001, 2500) as number";
    sqlx::query(insert).bind(&id).execute(&api.db.pool).await.unwrap();
    let path = format!("/v1/jobs/{id}/stream");
    let rounds = async {
        loop {
            let mut open = Vec::new();
            for _ in 0..8 {
                open.push(stalled(&api, &path, 1).await);
            }
            while !is_read(&api, &path).await {}
            let answered = futures::future::join_all(open.into_iter().map(is_answered)).await;
            if answered.contains(&false) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, rounds).await.expect("somebody gives way");
}

#[tokio::test]
async fn a_compressed_answer_does_not_wait_for_the_room_of_its_own_pieces() {
    // Room for one piece and what compresses it, and no second one.
    let api = Api::start_with(|settings| {
        settings.answers_limit = 1 << 20;
        settings.answer_patience = PATIENCE;
    })
    .await;
    let id = api.job().await;
    fill(&api, &id, 20_000).await;
    for path in ["metrics?max_points=100000", "tensorboard"] {
        let request = api.request(Method::GET, &format!("/v1/jobs/{id}/{path}")).header("accept-encoding", "gzip");
        let answer = async {
            let answer = request.send().await.expect("the server answers");
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(answer.headers()["content-encoding"], "gzip", "{path}");
            answer.bytes().await.expect("the answer is whole")
        };
        let packed = tokio::time::timeout(PATIENCE / 4, answer).await.expect("its pieces go on");
        // A gzip file ends with its size unpacked.
        let size = u32::from_le_bytes(packed[packed.len() - 4..].try_into().unwrap());
        assert!(size as usize > LARGE, "{path}: {size}");
    }
}

#[tokio::test]
async fn answers_beyond_the_limit_are_refused_until_others_are_read() {
    let api = Api::start_with(|settings| {
        settings.answers_limit = LIMIT;
        settings.answer_patience = PATIENCE;
    })
    .await;
    let path = format!("/v1/jobs/{}/submitted", large_job(&api).await);
    assert!(is_read(&api, &path).await);
    let mut open = Vec::new();
    let fill = async {
        loop {
            if open.len() < 8 {
                open.push(stalled(&api, &path, PIPELINED).await);
            }
            if !is_read(&api, &path).await {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, fill).await.expect("clients that do not read take all room");
    // What is small goes on.
    assert_eq!(api.get("/v1/jobs").await.expect(200)["data"].as_array().unwrap().len(), 1);
    // Clients that read after all get what they asked for, or an answer that it was too much, and leave room.
    let answered = futures::future::join_all(open.into_iter().map(is_answered)).await;
    assert!(!answered.contains(&false), "{answered:?}");
    assert!(is_read(&api, &path).await);
}

#[tokio::test]
async fn a_page_of_long_messages_ends_at_a_mebibyte_and_the_next_goes_on() {
    let api = Api::start().await;
    let id = api.job().await;
    let insert = "insert into events (job_id, seq, attempt, kind, message)
        select $1, number, 0, 'log', repeat('x', 8000) from generate_series(1001, 1400) as number";
    sqlx::query(insert).bind(&id).execute(&api.db.pool).await.unwrap();
    let all: Vec<i64> = (1001..=1400).collect();
    let seqs = |events: &Value| -> Vec<i64> {
        events.as_array().unwrap().iter().map(|event| event["seq"].as_i64().unwrap()).collect()
    };
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let after = found.last().copied().unwrap_or(1000);
        let answer = api.get(&format!("/v1/jobs/{id}/events?limit=1000&after={after}")).await;
        assert!(answer.body.len() < (1 << 20) + 100_000, "{}", answer.body.len());
        let page = answer.expect(200);
        found.extend(seqs(&page["data"]));
        pages += 1;
        if page["has_more"] == json!(false) {
            break;
        }
    }
    assert_eq!((&found, pages), (&all, 4));
    let (mut found, mut next) = (Vec::new(), "1000-0".to_owned());
    loop {
        let page = api.get(&format!("/v1/jobs/{id}/updates?after={next}")).await.expect(200);
        found.extend(seqs(&page["events"]));
        next = page["next"].as_str().unwrap().to_owned();
        if page["has_more"] == json!(false) {
            break;
        }
    }
    assert_eq!(found, all);
    // A limit that is reached first still holds.
    let two = api.get(&format!("/v1/jobs/{id}/events?limit=2&after=1000")).await.expect(200);
    assert_eq!((seqs(&two["data"]), &two["has_more"]), (vec![1001, 1002], &json!(true)));
}

#[tokio::test]
async fn a_page_of_sweeps_with_long_axes_ends_at_a_mebibyte_and_the_next_goes_on() {
    let api = Api::start().await;
    let insert = "insert into sweeps (id, name, submitted, axes, seeds, strategy)
        select 'swp_' || lpad(number::text, 26, '0'), 'wide', '{}',
            json_build_array(json_build_object('pointer', '/notes', 'values', json_build_array(repeat('x', 300000)))),
            1, '{\"type\": \"grid\"}'
        from generate_series(1, 12) as number";
    sqlx::query(insert).execute(&api.db.pool).await.unwrap();
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let answer = api.get(&format!("/v1/sweeps?limit=100{after}")).await;
        assert!(answer.body.len() < (1 << 20) + 400_000, "{}", answer.body.len());
        let page = answer.expect(200);
        found.extend(page["data"].as_array().unwrap().iter().map(|sweep| sweep["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(found, (1..=12).rev().map(|number| format!("swp_{number:0>26}")).collect::<Vec<_>>());
}
