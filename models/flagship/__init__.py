"""Flagship models: remote APIs, paid by the token.

`answerer` is the model; `dialect` what it needs to know of an API, with one small pure file for
each: `openai_chat`, `openai_responses`, `anthropic`. `client`, `window`, `http` and `sse` are
HTTP, `key` its secret. `permits` is the pure account of concurrent calls, `account` the one owner
of it in the cluster and each gateway's share.
"""
