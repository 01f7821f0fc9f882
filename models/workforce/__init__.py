"""Workforce models: open weights that the cluster hosts itself.

`answerer` is the gateway's side. `hosting` builds the deployment, whose replicas run `vllm`
(the real engine) or `fake` (no weights). Both sides talk OpenAI chat JSON, see `models.wire`.
"""
