alter table jobs add column compacted_at timestamptz;  -- when its series and its log were thinned, after it had ended
