"""Flagship models: remote APIs, paid by the token.

`answerer` is the model; `dialect` what it needs to know of an API, with one small pure file for
each: `openai_chat`, `openai_responses`, `anthropic`. `client`, `window`, `http` and `sse` are
HTTP, `key` its secret, `headers` what a provider says about its limits.

An account's limits have one owner in the cluster: `permits` (calls at once) and `rates` (within
a minute) are pure, `allowance` is both for one account, `account` the owner of all, `share` a
gateway's part. `registry` keeps what must outlive an edition of the catalog.
"""
