"""Answerers around answerers, each one concern. From the outside in:

    idempotency → policy → fallback → fit → repair → retry → circuit breaker → rate limit
    → ledger → transport or engine

Here are `fallback`, `fit`, `repair`, `retry`, `breaker` and `limit`; the ledger is
`serve.money.charge`. Idempotency and policy do not exist yet. `serve.parts` composes.
`repair` stands on `text_tools`, `loose_json`, `marks` and `profiles`, which are pure.

The order is not free. Retry stands outside the breaker, so that each attempt counts and an open
breaker ends the attempts; the limit stands inside both, so that a pause holds no permit.
"""
