//! What a worker does to jobs: claim, heartbeat, record, publish, fail, release.
