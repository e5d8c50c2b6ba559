create table tokens (
    id text primary key,                  -- tok_ and a ULID
    name text not null,
    scope text not null check (scope in ('read', 'submit', 'admin')),
    sha256 bytea not null unique,         -- of the token, which is not stored; 256 random bits need no slow hash
    created_at timestamptz not null default now(),
    last_used_at timestamptz,             -- to the minute
    revoked_at timestamptz
);
