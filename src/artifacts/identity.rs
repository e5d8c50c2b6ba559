//! The file by which a storage can be told from others.

use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::{Error, Store, checked, keys};

/// Longest id that is read.
const LONGEST: u64 = 128;

impl Store {
    /// The storage's id; none if it has not got one yet.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn id(&self) -> Result<Option<String>, Error> {
        let found = match self.inner.get(&checked(keys::STORAGE_ID)?).await.map_err(Error::from) {
            Err(Error::NotFound(_)) => return Ok(None),
            found => found?,
        };
        // Somebody may have written it by hand, or something else.
        if found.meta.size > LONGEST {
            return Ok(Some(format!("({} bytes of something else)", found.meta.size)));
        }
        let text = found.bytes().await?;
        Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()))
    }

    /// Gives the storage its id.
    ///
    /// # Errors
    /// The storage fails.
    pub async fn write_id(&self, id: &str) -> Result<(), Error> {
        self.inner.put(&checked(keys::STORAGE_ID)?, Bytes::from(format!("{id}\n")).into()).await?;
        Ok(())
    }
}
