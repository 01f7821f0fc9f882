"""What a trace of requests would cost: the scaling decision on a fake clock, beside its rivals.

`trace` is read, `engine` serves it, `simulator` plays it under one of the `contenders`: ours,
Ray Serve's own default (`serve_adapter`), a fixed fleet, or the `oracle`.
"""
