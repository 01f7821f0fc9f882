"""Where it runs: the launcher, the cost model, the scaling decision and its simulation."""
