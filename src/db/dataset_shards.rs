//! The table `dataset_shards`: shards that were uploaded one by one, until they become a version of a data set.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::file_deletions::{self, FileDeletion};
use super::interval;

/// A stored shard, which waits for others of its split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredShard {
    pub split: String,
    /// From 0.
    pub shard: i32,
    /// Number of shards of the split.
    pub shards: i32,
    pub key: String,
    /// In hexadecimal.
    pub sha256: String,
    pub size_bytes: i64,
}

/// A split some of whose shards wait for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingSplit {
    pub split: String,
    /// Number of shards of the split.
    pub shards: i32,
    /// The lowest numbers of those that are missing.
    pub missing: Vec<i32>,
}

/// What the shards of a data set lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingShards {
    pub splits: Vec<WaitingSplit>,
    /// When they are removed unless another one comes.
    pub expires_at: DateTime<Utc>,
}

/// A split some of whose shards wait for others, of any data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedSplit {
    /// Of the data set.
    pub name: String,
    pub split: String,
    /// Number of shards that wait.
    pub here: i64,
    /// Number of shards of the split.
    pub shards: i32,
    /// Bytes of those that wait.
    pub received_bytes: i64,
    /// When they are removed unless another one comes.
    pub expires_at: DateTime<Utc>,
}

/// A shard that was added.
#[derive(Debug)]
pub struct AddedShard {
    /// What is missing; `None` if its split is whole.
    pub waiting: Option<WaitingShards>,
    /// The files of those that it replaces, which are left to remove.
    pub replaced: Vec<FileDeletion>,
}

/// Most numbers of a split's missing shards in an answer.
const MOST_MISSING: i64 = 1000;
/// How long the counts of a data set's splits hold without a change. Its shards are kept for longer.
const COUNTED: Duration = Duration::from_secs(20 * 3600);
/// How often all shards of a data set are announced again. Each is kept this much longer than is promised, so that
/// one that came since the last time is kept as long as the newest.
const AGAIN: Duration = Duration::from_secs(3600);

/// Adds a shard. Its key was announced ([`file_deletions::announce`]), and its file is stored. It replaces the shard
/// with the same number, and shards of the split that are numbered out of another total. The time that this takes
/// hardly depends on the number of shards. `None` if storing the file has taken so long that its deletion was decided.
pub async fn put(pool: &PgPool, name: &str, new: &StoredShard) -> sqlx::Result<Option<AddedShard>> {
    let mut transaction = pool.begin().await?;
    // Of two shards that come at the same time, the later one must see the other.
    lock(&mut transaction, name).await?;
    if !file_deletions::arrived(&mut transaction, &new.key, AGAIN).await? {
        return Ok(None);
    }
    count_anew(&mut transaction, name).await?;
    let known = sqlx::query!(
        "select shards, here, below from dataset_shard_splits where name = $1 and split = $2",
        name,
        new.split
    );
    let known = known.fetch_optional(&mut *transaction).await?;
    let known = known.map(|split| (split.shards, split.here, split.below));
    let is_other_total = known.is_some_and(|(shards, ..)| shards != new.shards);
    let [first, last] = if is_other_total { [0, i32::MAX] } else { [new.shard; 2] };
    let query = sqlx::query_scalar!(
        "delete from dataset_shards where name = $1 and split = $2 and shard between $3 and $4 returning key",
        name,
        new.split,
        first,
        last,
    );
    let replaced = query.fetch_all(&mut *transaction).await?;
    sqlx::query!(
        "insert into dataset_shards (name, split, shard, shards, key, sha256, size_bytes)
         values ($1, $2, $3, $4, $5, $6, $7)",
        name,
        new.split,
        new.shard,
        new.shards,
        new.key,
        new.sha256,
        new.size_bytes,
    )
    .execute(&mut *transaction)
    .await?;
    let (_, here, below) = known.filter(|_| !is_other_total).unwrap_or((new.shards, 0, 0));
    let is_more = is_other_total || replaced.is_empty();
    let here = here + i32::from(is_more);
    count(&mut transaction, name, new, (here, below)).await?;
    announce_again(&mut transaction, name).await?;
    let replaced = file_deletions::decide_files(&mut transaction, replaced).await?;
    let waiting = if here < new.shards { Some(lacks(&mut transaction, name, &new.key).await?) } else { None };
    transaction.commit().await?;
    Ok(Some(AddedShard { waiting, replaced }))
}

/// Makes the counts of a data set's splits out of its shards, if they are not known or too old.
async fn count_anew(connection: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let is_known = sqlx::query_scalar!(
        r#"select exists (
            select from dataset_shard_splits where name = $1 and changed_at > now() - $2::interval) as "is_known!""#,
        name,
        interval(COUNTED),
    );
    if is_known.fetch_one(&mut *connection).await? {
        return Ok(());
    }
    sqlx::query!("delete from dataset_shard_splits where name = $1", name).execute(&mut *connection).await?;
    sqlx::query!(
        "delete from dataset_shards where name = $1 and not exists (
            select from file_deletions where file_deletions.key = dataset_shards.key and not is_decided)",
        name,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into dataset_shard_splits (name, split, shards, here, below, changed_at, announced_at)
         select name, split, max(shards), count(*)::integer, 0, now(), '-infinity'::timestamptz
         from dataset_shards where name = $1 group by name, split",
        name,
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Notes how many shards of a new shard's split wait, and below which number none is missing.
async fn count(
    connection: &mut PgConnection,
    name: &str,
    new: &StoredShard,
    (here, below): (i32, i32),
) -> sqlx::Result<()> {
    // From the first one that was missing on, if that is there now.
    let next = sqlx::query_scalar!(
        r#"
        select shard + 1 as "next!" from dataset_shards as here
        where name = $1 and split = $2 and shard >= $3
            and exists (select from dataset_shards where name = $1 and split = $2 and shard = $3)
            and (select key from dataset_shards as other
                where other.name = $1 and other.split = $2 and other.shard = here.shard + 1) is null
        order by shard limit 1
        "#,
        name,
        new.split,
        below,
    );
    let below = next.fetch_optional(&mut *connection).await?.unwrap_or(below);
    sqlx::query!(
        "insert into dataset_shard_splits (name, split, shards, here, below, changed_at, announced_at)
         values ($1, $2, $3, $4, $5, now(), '-infinity')
         on conflict (name, split) do update set
            shards = excluded.shards, here = excluded.here, below = excluded.below, changed_at = now()",
        name,
        new.split,
        new.shards,
        here,
        below,
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Announces all shards of a data set again, unless that was done a short while ago.
async fn announce_again(connection: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let due = sqlx::query_scalar!(
        r#"select max(announced_at) < now() - $2::interval as "is_due!" from dataset_shard_splits where name = $1"#,
        name,
        interval(AGAIN),
    );
    if !due.fetch_one(&mut *connection).await? {
        return Ok(());
    }
    let query = sqlx::query_scalar!("select key from dataset_shards where name = $1", name);
    let keys = query.fetch_all(&mut *connection).await?;
    file_deletions::announce_again(connection, &keys, AGAIN).await?;
    sqlx::query!("update dataset_shard_splits set announced_at = now() where name = $1", name)
        .execute(connection)
        .await?;
    Ok(())
}

/// What the shards of a data set lack. `key` is that of the newest.
async fn lacks(connection: &mut PgConnection, name: &str, key: &str) -> sqlx::Result<WaitingShards> {
    // A select list makes numbers until there are enough, and a subquery of one row is no join of all.
    let splits = sqlx::query_as!(
        WaitingSplit,
        r#"
        select split, shards, array(
            select number
            from (select generate_series(counted.below, counted.shards - 1) as number) as numbers
            where (select key from dataset_shards
                where name = $1 and dataset_shards.split = counted.split and shard = number) is null
            limit $2
        ) as "missing!"
        from dataset_shard_splits as counted where name = $1 order by split
        "#,
        name,
        MOST_MISSING,
    );
    let splits = splits.fetch_all(&mut *connection).await?;
    // The others are kept until then at least.
    let query = sqlx::query_scalar!(
        r#"select due_at - $2::interval as "expires_at!" from file_deletions where key = $1"#,
        key,
        interval(AGAIN),
    );
    let expires_at = query.fetch_one(connection).await?;
    Ok(WaitingShards { splits, expires_at })
}

/// Bytes of the shards that a new one would replace.
pub async fn replaced_by(pool: &PgPool, name: &str, split: &str, [shard, shards]: [i32; 2]) -> sqlx::Result<u64> {
    let known =
        sqlx::query_scalar!("select shards from dataset_shard_splits where name = $1 and split = $2", name, split);
    let is_same_total = known.fetch_optional(pool).await? == Some(shards);
    let [first, last] = if is_same_total { [shard; 2] } else { [0, i32::MAX] };
    let query = sqlx::query_scalar!(
        r#"
        select coalesce(sum(size_bytes), 0)::bigint as "bytes!"
        from dataset_shards join file_deletions on file_deletions.key = dataset_shards.key and not is_decided
        where name = $1 and split = $2 and shard between $3 and $4 and (shard = $5 or shards <> $6)
        "#,
        name,
        split,
        first,
        last,
        shard,
        shards,
    );
    query.fetch_one(pool).await.map(i64::unsigned_abs)
}

/// Keeps other transactions from changing the shards of a data set and the pieces of its uploads, or making a version
/// of them, until this one ends. Without it two that change several rows could wait for each other.
pub(super) async fn lock(connection: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    let what = format!("shards of {name}");
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", what).execute(connection).await?;
    Ok(())
}

/// The shards of a data set that wait for others, by split and number.
pub async fn of_dataset(pool: &PgPool, name: &str) -> sqlx::Result<Vec<StoredShard>> {
    let mut connection = pool.acquire().await?;
    waiting(&mut connection, name).await
}

async fn waiting(connection: &mut PgConnection, name: &str) -> sqlx::Result<Vec<StoredShard>> {
    sqlx::query_as!(
        StoredShard,
        "select split, shard, shards, dataset_shards.key, sha256, size_bytes
         from dataset_shards join file_deletions on file_deletions.key = dataset_shards.key and not is_decided
         where name = $1 order by split, shard",
        name,
    )
    .fetch_all(connection)
    .await
}

/// All splits whose shards wait for others, or those of a name, or the first ones of very many.
pub async fn unfinished(pool: &PgPool, name: Option<&str>, most: i64) -> sqlx::Result<Vec<UnfinishedSplit>> {
    // The newest shard of a split is kept for as long as is promised, and `AGAIN` longer.
    sqlx::query_as!(
        UnfinishedSplit,
        r#"
        select name, split, count(*) as "here!", max(shards) as "shards!", sum(size_bytes)::bigint as "received_bytes!",
            max(due_at) - $2::interval as "expires_at!"
        from dataset_shards join file_deletions on file_deletions.key = dataset_shards.key and not is_decided
        where $3::text is null or name = $3
        group by name, split order by name, split limit $1
        "#,
        most,
        interval(AGAIN),
        name,
    )
    .fetch_all(pool)
    .await
}

/// The shards of a data set to delete.
#[derive(Debug, Clone, Copy)]
pub enum Shards<'a> {
    All,
    /// Those whose files have these keys.
    Under(&'a [String]),
}

/// Deletes shards of a data set. Returns the files that are left to remove.
pub async fn forget(pool: &PgPool, name: &str, which: Shards<'_>) -> sqlx::Result<Vec<FileDeletion>> {
    let (is_all, keys) = match which {
        Shards::All => (true, [].as_slice()),
        Shards::Under(keys) => (false, keys),
    };
    let mut transaction = pool.begin().await?;
    lock(&mut transaction, name).await?;
    let query = sqlx::query_scalar!(
        "delete from dataset_shards where name = $1 and ($2 or key = any($3)) returning key",
        name,
        is_all,
        keys,
    );
    let gone = query.fetch_all(&mut *transaction).await?;
    // Those that are left are counted when the next one comes.
    sqlx::query!("delete from dataset_shard_splits where name = $1", name).execute(&mut *transaction).await?;
    let files = file_deletions::decide_files(&mut transaction, gone).await?;
    transaction.commit().await?;
    Ok(files)
}
