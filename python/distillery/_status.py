"""The statuses of jobs."""

# Those of jobs that have ended.
ENDED = ("succeeded", "failed", "cancelled")
