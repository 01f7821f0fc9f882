"""Batches: thousands of requests worked through in the background, each paid for once."""
