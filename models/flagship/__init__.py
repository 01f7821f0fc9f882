"""Flagship models: remote APIs, paid by the token.

`http` is what every dialect needs of HTTP. One small file for each dialect: `openai_chat`.
`permits` is the pure account of concurrent calls, `account` the one owner of it in the cluster
and each gateway's share.
"""
