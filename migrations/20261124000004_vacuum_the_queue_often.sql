-- Jobs change many times each, and the queue is read from its head: dead rows and old statistics cost every claim.
alter table jobs set (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 100);
