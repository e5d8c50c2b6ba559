"""The parts of benches/evidence.py: what is trained, by which requests, and what is kept of it."""
