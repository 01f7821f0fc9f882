"""Money: what each call used and cost."""
