//! Columns of type `json` that another program may have written.

use serde_json::Value;
use sqlx::Postgres;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};

/// A column of type `json`, selected as text. Such a column keeps what was sent, byte for byte: also numbers and texts
/// that this program cannot read, which make the document null. No SQL function can tell, because `jsonb` refuses some
/// of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ForeignJson(Value);

impl From<ForeignJson> for Value {
    fn from(read: ForeignJson) -> Self {
        read.0
    }
}

impl sqlx::Type<Postgres> for ForeignJson {
    fn type_info() -> PgTypeInfo {
        <str as sqlx::Type<Postgres>>::type_info()
    }

    fn compatible(other: &PgTypeInfo) -> bool {
        <str as sqlx::Type<Postgres>>::compatible(other)
    }
}

impl<'r> sqlx::Decode<'r, Postgres> for ForeignJson {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = <&str as sqlx::Decode<Postgres>>::decode(value)?;
        Ok(Self(serde_json::from_str(text).unwrap_or_default()))
    }
}
