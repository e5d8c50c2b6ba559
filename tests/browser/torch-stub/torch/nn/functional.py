"""Nothing of it is called: no network computes."""
