"""Policies, pure: one file a kind, `values` what goes in and out, `engine` how verdicts add up."""
