"""Conversations whose state is ours, in our own form, whatever models answered.

store         sessions and their items, as transactions
transcript    one as JSON lines, out and in
carry         what a model can take of a history, pure
summary       the oldest turns in short, where a history is too long
remembering   a request within a session: its history before it, its answer kept
room          the same over HTTP
"""
