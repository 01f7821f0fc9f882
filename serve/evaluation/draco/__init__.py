"""DRACO, the deep research benchmark: its format, its scoring, and runs on one's own cluster."""
