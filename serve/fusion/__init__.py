"""Fusion: a panel answers in parallel, a judge compares, a synthesis writes the answer.

`engine` decides (pure), `fusion` carries out, `judge` compares, `contract` holds the shapes that
clients know, `prompts` the words that models read.
"""
