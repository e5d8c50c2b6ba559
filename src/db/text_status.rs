//! How a status is stored: as its name, in a column of text.

/// Stores a status as its `name()`, and reads a name that is not in `ALL` as `Unknown`, so that one job or sweep of a
/// newer program does not keep all others from being listed. That is why these are not derived: what sqlx derives
/// refuses a name that it does not know.
macro_rules! text_status {
    ($status:ty) => {
        impl ::sqlx::Type<::sqlx::Postgres> for $status {
            fn type_info() -> ::sqlx::postgres::PgTypeInfo {
                <str as ::sqlx::Type<::sqlx::Postgres>>::type_info()
            }

            fn compatible(other: &::sqlx::postgres::PgTypeInfo) -> bool {
                <str as ::sqlx::Type<::sqlx::Postgres>>::compatible(other)
            }
        }

        impl ::sqlx::postgres::PgHasArrayType for $status {
            fn array_type_info() -> ::sqlx::postgres::PgTypeInfo {
                <String as ::sqlx::postgres::PgHasArrayType>::array_type_info()
            }

            fn array_compatible(other: &::sqlx::postgres::PgTypeInfo) -> bool {
                <String as ::sqlx::postgres::PgHasArrayType>::array_compatible(other)
            }
        }

        impl ::sqlx::Encode<'_, ::sqlx::Postgres> for $status {
            fn encode_by_ref(
                &self,
                buffer: &mut ::sqlx::postgres::PgArgumentBuffer,
            ) -> Result<::sqlx::encode::IsNull, ::sqlx::error::BoxDynError> {
                <&str as ::sqlx::Encode<::sqlx::Postgres>>::encode(self.name(), buffer)
            }
        }

        impl<'r> ::sqlx::Decode<'r, ::sqlx::Postgres> for $status {
            fn decode(value: ::sqlx::postgres::PgValueRef<'r>) -> Result<Self, ::sqlx::error::BoxDynError> {
                let name = <&str as ::sqlx::Decode<::sqlx::Postgres>>::decode(value)?;
                Ok(Self::ALL.into_iter().find(|status| status.name() == name).unwrap_or(Self::Unknown))
            }
        }
    };
}

pub(super) use text_status;
