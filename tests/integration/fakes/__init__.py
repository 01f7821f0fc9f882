"""A package, so that its modules share one cluster (pytest's scope `package`)."""
