-- Rows that a newer or another program wrote may have other values where this one expects numbers. Such a row must keep
-- no list, sum or average from being read. Queries read numbers and documents of JSON with these functions and with
-- nothing else. They are plain expressions without `strict`, so that the planner puts them into the query.

-- A number that float8 can hold; null for anything else. The bound lies far enough below the end of the range that sums
-- over all rows are in range too. Digits that would underflow are cut off.
create function finite_number(value jsonb) returns double precision language sql immutable parallel safe as $$
    select case when jsonb_typeof(value) = 'number' then
        case when abs(value::numeric) <= 1e300 then trunc(value::numeric, 300)::double precision end end
$$;

-- A whole number of at most 18 digits, which bigint can hold; null for anything else.
create function whole_number(value jsonb) returns bigint language sql immutable parallel safe as $$
    select case when jsonb_typeof(value) = 'number' then
        case when abs(value::numeric) < 1e18 and value::numeric = trunc(value::numeric)
            then value::numeric::bigint end end
$$;

-- A document as it is, or JSON's null if any number of it is too large for float8: no program that reads numbers as
-- float8 could read it.
create function readable(value jsonb) returns jsonb language sql immutable parallel safe as $$
    select case when jsonb_path_exists(value, '$.** ? (@ > 1e300 || @ < -1e300)') then 'null' else value end
$$;

-- As before, with the same guard as everywhere.
create or replace function has_reached_rung(job jobs) returns boolean language sql immutable as $$
    select coalesce(finite_number(job.checkpoint -> 'epoch') >= job.pause_after, false)
$$;
