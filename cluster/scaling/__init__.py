"""How many replicas, of which kind: the decision by queue depth and cost, pure.

`decision` decides for one model from `forecast`, `hindsight` and `placement`; `budget` keeps all
models within one; `overflow` says what goes elsewhere; `policy` is Ray Serve's wrapper of it.
"""
