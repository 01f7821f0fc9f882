"""The door: who speaks which dialect is known here and nowhere further in.

`chat` translates OpenAI's chat dialect both ways, `errors` its error shape. `door` is what the
routes do, with `streams` and `metrics`; `deployment` puts them on Ray Serve.
"""
