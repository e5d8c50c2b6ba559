//! Changes of a job's name, labels, priority and notes.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::{Job, Refusal, Status};
use crate::db::events::{self, EventKind, NewEvent};
use crate::spec::{Amendment, MOST_LABELS};
use crate::text::quoted;

/// The part of a job that can be amended.
#[derive(Debug, PartialEq)]
struct Amendable {
    name: String,
    priority: i32,
    /// Another program may have stored labels that are no texts. They stay until they are set or removed.
    labels: BTreeMap<String, Value>,
    notes: Option<String>,
}

/// Makes the changes, all or none, and notes in the job's history what was changed. The copies in the specification
/// follow, so that an attempt that begins later has them; the document that the job was posted with stays as it is.
pub async fn amend(pool: &PgPool, id: &str, amendment: &Amendment) -> sqlx::Result<Result<Job, Refusal>> {
    let mut transaction = pool.begin().await?;
    match amend_in(&mut transaction, id, amendment).await? {
        Ok(()) => transaction.commit().await?,
        Err(refusal) => {
            // Rolled back at once, because a claim passes over a locked job.
            transaction.rollback().await?;
            return Ok(Err(refusal));
        }
    }
    Ok(super::get(pool, id).await?.ok_or(Refusal::Missing))
}

async fn amend_in(connection: &mut PgConnection, id: &str, amendment: &Amendment) -> sqlx::Result<Result<(), Refusal>> {
    let query = sqlx::query!(
        r#"
        select status as "status: Status", name, priority, notes, (
            select coalesce(jsonb_object_agg(key, readable(value)), '{}')
            from jsonb_each(case when jsonb_typeof(labels) = 'object' then labels else '{}' end)
        ) as "labels!: Json<BTreeMap<String, Value>>"
        from jobs where id = $1 for no key update
        "#,
        id,
    );
    let Some(row) = query.fetch_optional(&mut *connection).await? else { return Ok(Err(Refusal::Missing)) };
    let before = Amendable { name: row.name, priority: row.priority, labels: row.labels.0, notes: row.notes };
    let after = match before.after(amendment) {
        Ok(after) => after,
        Err(reason) => return Ok(Err(Refusal::Because(reason))),
    };
    if after.priority != before.priority && matches!(row.status, Status::Succeeded | Status::Unknown) {
        return Ok(Err(Refusal::Because(format!(
            "it is {}, so its priority has no effect: leave out the priority",
            row.status.name()
        ))));
    }
    if after == before {
        return Ok(Ok(()));
    }
    sqlx::query!(
        r#"
        update jobs set name = $2, priority = $3, labels = coalesce($4, labels), notes = $5,
            spec = case when jsonb_typeof(spec) = 'object'
                then spec || jsonb_build_object(
                    'name', $2::text, 'priority', $3::integer, 'labels', coalesce($4::jsonb, labels))
                else spec end
        where id = $1
        "#,
        id,
        after.name,
        after.priority,
        (after.labels != before.labels).then(|| json!(after.labels)),
        after.notes,
    )
    .execute(&mut *connection)
    .await?;
    let events: Vec<NewEvent> = after.differences(&before).into_iter().map(event).collect();
    events::append(connection, id, &events).await?;
    Ok(Ok(()))
}

fn event((message, data): (String, Value)) -> NewEvent {
    NewEvent { kind: EventKind::Log, message: format!("{message} on request"), data: Some(data) }
}

impl Amendable {
    fn after(&self, amendment: &Amendment) -> Result<Self, String> {
        let labels = amendment.labels.apply(self.labels.clone()).map_err(|count| {
            format!("it would have {count} labels, and at most {MOST_LABELS} are allowed: remove others with null")
        })?;
        Ok(Self {
            name: amendment.name.clone().unwrap_or_else(|| self.name.clone()),
            priority: amendment.priority.unwrap_or(self.priority),
            labels,
            notes: amendment.notes.clone().unwrap_or_else(|| self.notes.clone()),
        })
    }

    /// The differences from `before`, as text and as data. Notes may be long and are not repeated.
    fn differences(&self, before: &Self) -> Vec<(String, Value)> {
        let mut differences = Vec::new();
        if self.name != before.name {
            let message = format!("renamed from {} to {}", quoted(&before.name), quoted(&self.name));
            differences.push((message, json!({"name": {"before": before.name, "after": self.name}})));
        }
        if self.priority != before.priority {
            let message = format!("priority changed from {} to {}", before.priority, self.priority);
            differences.push((message, json!({"priority": {"before": before.priority, "after": self.priority}})));
        }
        if self.labels != before.labels {
            let data = json!({"labels": {"before": before.labels, "after": self.labels}});
            differences.push(("labels changed".to_owned(), data));
        }
        if self.notes != before.notes {
            let message = if self.notes.is_some() { "notes changed" } else { "notes removed" };
            differences.push((message.to_owned(), json!({"notes": {}})));
        }
        differences
    }
}
