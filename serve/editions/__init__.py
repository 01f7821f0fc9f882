"""Catalogs while the cluster runs: versions in the store, and the one that every replica is on.

`changes` compares two catalogs (pure), `history` keeps them in the store, `edition` is the one
in force in this process.
"""
