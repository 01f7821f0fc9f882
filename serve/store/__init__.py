"""What outlives a process: one database, its tables, and how they change between versions."""
