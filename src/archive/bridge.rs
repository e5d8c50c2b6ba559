//! Connects blocking and asynchronous code: a stream of bytes becomes a reader, and what is written becomes a stream.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Most pieces that are sent and not received yet.
const PIECES: usize = 8;
/// Size of the pieces that a writer sends, in bytes.
const PIECE: usize = 256 << 10;

/// Reads what is sent to it. It blocks, so it must not be used on the runtime's threads.
#[derive(Debug)]
pub struct ChannelReader {
    pieces: mpsc::Receiver<Option<Bytes>>,
    /// The rest of the last piece.
    piece: Bytes,
    is_whole: bool,
}

impl ChannelReader {
    /// The sender marks the end with `None`. If it is dropped before that, the content is incomplete, and reading fails
    /// with `BrokenPipe`.
    #[must_use]
    pub fn new() -> (mpsc::Sender<Option<Bytes>>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, Self { pieces, piece: Bytes::new(), is_whole: false })
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.is_whole {
                return Ok(0);
            }
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.is_whole = true,
                None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the transfer has ended early")),
            }
        }
        let read = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

/// Sends what is written to it. It blocks, so it must not be used on the runtime's threads. `flush` sends the last
/// bytes.
#[derive(Debug)]
pub struct ChannelWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl ChannelWriter {
    /// A writer that fails sends its error through the sender, so that the bytes before are not taken for the whole.
    #[must_use]
    pub fn new() -> (Self, mpsc::Sender<io::Result<Bytes>>, mpsc::Receiver<io::Result<Bytes>>) {
        let (pieces, receiver) = mpsc::channel(PIECES);
        (Self { pieces: pieces.clone(), piece: Vec::with_capacity(PIECE) }, pieces, receiver)
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the rest");
        self.pieces.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}
