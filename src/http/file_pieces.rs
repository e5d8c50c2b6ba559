//! Files on their way to a client, in pieces whose memory is reserved before they are read.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};

use super::AppState;
use super::answers::{AnswerClient, Answers};
use super::comparisons::{ComparedFile, Comparisons};
use crate::artifacts::{self, Bytestream};

/// Memory in bytes that a piece of a stored file takes until it is read: storage decides how large it is.
const STORED_PIECE: usize = 512 << 10;

/// A range of a local file, in pieces.
pub fn local(
    file: Arc<File>,
    range: Range<u64>,
    answers: Arc<Answers>,
    client: AnswerClient,
) -> impl Stream<Item = std::io::Result<Bytes>> {
    const PIECE: u64 = 1 << 18;
    futures::stream::try_unfold((file, range, answers, client), async |(file, range, answers, client)| {
        if range.is_empty() {
            return Ok(None);
        }
        let piece = range.start..range.end.min(range.start + PIECE);
        let length = (piece.end - piece.start) as usize;
        let memory = answers.reserve(length, &client).await;
        let (rest, source) = (piece.end..range.end, file.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length];
            source.read_exact_at(&mut bytes, piece.start).map(|()| memory.hold(bytes))
        });
        Ok(Some((read.await.map_err(std::io::Error::other)??, (file, rest, answers, client))))
    })
}

/// The content, without the end of a file that is damaged: a client then notices that it has not got the file. Only
/// whole files are compared with their digest.
pub fn checked(
    content: Bytestream,
    range: Range<u64>,
    file: ComparedFile,
    state: &AppState,
    client: AnswerClient,
) -> impl Stream<Item = Result<Bytes, artifacts::Error>> + use<> {
    let sha256 = (range == (0..file.version.size_bytes)).then(Sha256::new);
    let expected = range.end - range.start;
    let (comparisons, answers) = (state.comparisons.clone(), state.answers.clone());
    futures::stream::try_unfold(Check { content, file, comparisons, answers, client, sha256, expected }, Check::next)
}

/// A download that goes on.
struct Check {
    content: Bytestream,
    file: ComparedFile,
    comparisons: Arc<Comparisons>,
    answers: Arc<Answers>,
    client: AnswerClient,
    /// The hash of what was read so far; `None` where only a part is read.
    sha256: Option<Sha256>,
    /// Bytes that are still to come.
    expected: u64,
}

impl Check {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, artifacts::Error> {
        if self.expected == 0 {
            return Ok(None);
        }
        let memory = self.answers.reserve(STORED_PIECE, &self.client).await;
        let piece = self.piece().await?.unwrap_or_default();
        self.expected = self.expected.saturating_sub(piece.len() as u64);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(&piece);
        }
        let is_end = piece.is_empty() || self.expected == 0;
        // The last piece is sent only once it is known to be right.
        if is_end && let Err(error) = self.end() {
            tracing::error!(%error, "a download was cut off");
            return Err(error);
        }
        Ok(Some((memory.hold(piece), self)))
    }

    /// The next bytes of the file; `None` if it has ended.
    async fn piece(&mut self) -> Result<Option<Bytes>, artifacts::Error> {
        while let Some(piece) = self.content.next().await {
            let piece =
                piece.inspect_err(|error| tracing::error!(key = self.file.key, %error, "a download was cut off"))?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Compares what was read with what was stored.
    fn end(&mut self) -> Result<(), artifacts::Error> {
        let found = self.sha256.take().map(|sha256| hex::encode(sha256.finalize()));
        let is_whole = found.as_ref().map(|found| *found == self.file.sha256);
        // What ends too early says nothing of the file: storage may have failed.
        if let Some(is_whole) = is_whole.filter(|_| self.expected == 0) {
            self.comparisons.remember(&self.file, is_whole);
        }
        if self.expected == 0 && is_whole != Some(false) {
            return Ok(());
        }
        let (key, stored) = (self.file.key.clone(), self.file.sha256.clone());
        Err(artifacts::Error::Damaged { key, found: found.unwrap_or_default(), stored })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use axum::extract::FromRequestParts;
    use axum::http::Request;
    use futures::FutureExt;

    use super::*;
    use crate::artifacts::Store;
    use crate::http::ServerSettings;

    #[tokio::test]
    async fn a_stored_file_is_read_no_further_than_there_is_room_for_what_the_client_has_not_taken() {
        let mut settings =
            ServerSettings::new(([127, 0, 0, 1], 0).into(), "datasets".into(), std::env::temp_dir().join("spool"));
        settings.answers_limit = STORED_PIECE as u64;
        let mut request = Request::new(()).into_parts().0;
        let Ok(client) = AnswerClient::from_request_parts(&mut request, &()).await;
        let size_bytes = 2 * STORED_PIECE as u64;
        let piece = Bytes::from(vec![1; STORED_PIECE]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("student");
        std::fs::write(&path, [&piece[..], &piece[..]].concat()).unwrap();
        let store = Store::open(dir.path().join("storage").to_str().unwrap()).unwrap();
        store.put_file("student", &path).await.unwrap();
        let version = store.version("student").await.unwrap().expect("it is stored");
        let check = Check {
            content: futures::stream::iter([Ok(piece.clone()), Ok(piece)]).boxed(),
            file: ComparedFile { key: String::new(), sha256: String::new(), version },
            comparisons: Arc::default(),
            answers: Arc::new(Answers::new(&settings)),
            client,
            sha256: None,
            expected: size_bytes,
        };
        let mut pieces = pin!(futures::stream::try_unfold(check, Check::next));
        let first = pieces.next().await.expect("a piece").expect("storage has it");
        assert!(pieces.next().now_or_never().is_none(), "the first has all memory");
        drop(first);
        assert_eq!(pieces.next().await.expect("a piece").expect("storage has it").len(), STORED_PIECE);
        assert!(pieces.next().await.is_none());
    }
}
