//! Between code that blocks and code that does not: the bytes of a stream as a reader, and those of a writer as a
//! stream.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Pieces under way.
const PIECES: usize = 8;
/// Bytes of a piece that is written.
const PIECE: usize = 256 << 10;

/// Reads what is sent to it. Blocks, so it is for other threads than those of the runtime.
#[derive(Debug)]
pub struct ChannelReader {
    pieces: mpsc::Receiver<Option<Bytes>>,
    /// What is left of the last one.
    piece: Bytes,
    is_whole: bool,
}

impl ChannelReader {
    /// The sender ends the content with `None`. If it is dropped before, the content was not whole, and reading fails
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

/// Sends what is written to it. Blocks, so it is for other threads than those of the runtime. What is left at its end
/// is sent by `flush`.
#[derive(Debug)]
pub struct ChannelWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl ChannelWriter {
    /// Whoever writes sends an error through the sender, so that what came until then is not taken for the whole.
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
