//! Opens the storage and makes sure that it is the one whose files the database names. Otherwise a worker with another
//! `--storage` than the server's would train jobs whose students nobody finds, and `distillery prune` would remove
//! another database's files.
//!
//! The first server gives the storage the database's id, in the file `storage-id`. Every process compares both when it
//! starts.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use distillery_core::removed_if_empty::RemovedIfEmpty;

use crate::artifacts::{self, Store, keys};
use crate::db::storage::{self, StorageId};

/// How long the process that gives the storage its id may take to write it.
const WRITING: Duration = Duration::from_secs(5);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Who opens the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// May decide which storage a new database has.
    Server,
    /// Waits for the first server if the database is new.
    Worker,
}

/// Opens the storage, and waits until it answers. None if `stop` is cancelled first.
///
/// # Errors
/// It is not this database's storage, or cannot be opened.
pub async fn open_when_there(
    address: &str,
    pool: &PgPool,
    opener: Opener,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Store>> {
    let opened = async {
        loop {
            match open(address, pool, opener).await {
                Err(error) if is_passing(&error) => {
                    tracing::warn!(error = format!("{error:#}"), "waiting for the storage {address}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                outcome => return outcome,
            }
        }
    };
    stop.run_until_cancelled(opened).await.transpose()
}

/// Whether waiting helps: the storage or the database fails, rather than being the wrong one.
fn is_passing(error: &anyhow::Error) -> bool {
    let is_storage = |error: &artifacts::Error| matches!(error, artifacts::Error::Storage(_));
    let is_database = |error: &sqlx::Error| crate::db::errors::Transient::of(error).is_some();
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_storage))
        || error.chain().any(|cause| cause.downcast_ref().is_some_and(is_database))
}

/// Opens the storage.
///
/// # Errors
/// It is not this database's storage, cannot be opened, or does not answer.
pub async fn open(address: &str, pool: &PgPool, opener: Opener) -> anyhow::Result<Store> {
    // A directory that is refused is not left behind. One that is accepted has its id in it.
    let _refused = RemovedIfEmpty::new(Path::new(address));
    let store = Store::open(address)?;
    let wanted = storage::get_or_choose(pool, &keys::unique()).await?;
    let mut place = CheckedStorage { store: &store, pool, name: name(address), wanted };
    match place.store.id().await? {
        Some(found) => place.compare(&found).await?,
        None => place.give_id(opener).await?,
    }
    Ok(store)
}

/// An address for people on other machines too.
fn name(address: &str) -> String {
    if address.contains("://") {
        return address.to_owned();
    }
    let path = std::path::absolute(address).unwrap_or_else(|_| address.into());
    format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), path.display())
}

/// A storage whose id is to be compared.
struct CheckedStorage<'a> {
    store: &'a Store,
    pool: &'a PgPool,
    /// Its address for people, with the host's name if it is a directory.
    name: String,
    wanted: StorageId,
}

impl CheckedStorage<'_> {
    async fn compare(&self, found: &str) -> anyhow::Result<()> {
        let StorageId { id, address } = &self.wanted;
        let home = address.as_deref().unwrap_or("not decided yet");
        anyhow::ensure!(
            found == id,
            "the storage {} has the id {found}, but the storage of this database has the id {id} (it was {home} when it \
             got it). Start this process with the same --storage and database as the server. If this storage is the \
             right one, because the database is new or the files were copied, write {id} into its file {}",
            self.name,
            keys::STORAGE_ID
        );
        // The process that wrote the id may have ended before it could say so.
        storage::decide(self.pool, &self.name).await?;
        Ok(())
    }

    async fn give_id(&mut self, opener: Opener) -> anyhow::Result<()> {
        if opener == Opener::Worker && self.wanted.address.is_none() && !storage::has_jobs(self.pool).await? {
            tracing::info!("waiting for a server to decide on the storage of this new database");
            while self.wanted.address.is_none() && !storage::has_jobs(self.pool).await? {
                tokio::time::sleep(PAUSE).await;
                self.wanted = storage::get(self.pool).await?;
            }
        }
        if self.wanted.address.is_none() {
            self.check_files().await?;
            if storage::decide(self.pool, &self.name).await? {
                let written = self.store.write_id(&self.wanted.id).await;
                if written.is_err() {
                    storage::undo(self.pool).await?;
                }
                return written.with_context(|| format!("cannot write to the storage {}", self.name));
            }
            self.wanted = storage::get(self.pool).await?;
        }
        self.await_id().await
    }

    /// Another process has decided on a storage, and may be about to write to this one.
    async fn await_id(&self) -> anyhow::Result<()> {
        let looks = async {
            loop {
                if let Some(found) = self.store.id().await? {
                    return self.compare(&found).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let StorageId { id, address } = &self.wanted;
        tokio::time::timeout(WRITING, looks).await.unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "the storage {} has no id, but the storage of this database has the id {id} (it was {} when it got it). \
                 Start this process with the same --storage as the server, and see that the directory is mounted. If \
                 this storage is the right one, because its files were moved, write {id} into its file {}",
                self.name,
                address.as_deref().unwrap_or("somewhere else"),
                keys::STORAGE_ID
            ))
        })
    }

    /// A database from before there were ids names files, which its storage has.
    async fn check_files(&self) -> anyhow::Result<()> {
        let named = storage::newest_files(self.pool).await?;
        for key in &named {
            // A key that an earlier version made is no reason to fail.
            if self.store.size(key).await?.is_some() {
                return Ok(());
            }
        }
        anyhow::ensure!(
            named.is_empty(),
            "the storage {} has none of the files that the database names, such as {}: start this process with the \
             same --storage as the server. If these files are lost and the storage is the right one, write {} into its \
             file {}",
            self.name,
            named[0],
            self.wanted.id,
            keys::STORAGE_ID
        );
        Ok(())
    }
}
