"""Who may do what: API keys, and the caller behind a request."""
