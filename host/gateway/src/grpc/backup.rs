//! A backup as a stream of the admin API: each file in pieces, the manifest last. Knows how it travels, not
//! what it is made of. Invariant: one piece waits at most; a peer that goes ends it, and the copy is removed.

use super::status::status;
use crate::{
    backup::Copy,
    error::{Code, Error},
};
use tidegate_proto::v1::{BackupPart, backup_part::Part};
use tokio::{fs::File, io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of one piece; a message, so within the size that every client takes.
const PIECE: usize = 256 << 10;

pub(super) fn stream(copy: Copy) -> ReceiverStream<Result<BackupPart, Status>> {
    // Full: the peer has not taken the piece before; this waits.
    let (parts, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let sent = send(&copy, &parts).await;
        if let Err(Some(error)) = sent {
            let error = Error::new(Code::Internal, format!("the copy cannot be read: {error}"));
            // Gone: nobody is left to be told.
            let _gone = parts.send(Err(status(&error))).await;
        }
    });
    ReceiverStream::new(stream)
}

/// `Err(None)`: the peer has gone.
async fn send(copy: &Copy, parts: &mpsc::Sender<Result<BackupPart, Status>>) -> Result<(), Option<std::io::Error>> {
    let put = |part| async move { parts.send(Ok(BackupPart { part: Some(part) })).await.map_err(|_gone| None) };
    for entry in &copy.manifest.files {
        put(Part::Begin(entry.path.clone())).await?;
        let mut file = File::open(copy.path(entry)).await.map_err(Some)?;
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            if (&mut file).take(PIECE as u64).read_to_end(&mut piece).await.map_err(Some)? == 0 {
                break;
            }
            put(Part::Data(piece.into())).await?;
        }
    }
    put(Part::Manifest(copy.manifest.to_text().into())).await
}
