"""The routes beside those of the dialects, one group a file: what each does is elsewhere."""
