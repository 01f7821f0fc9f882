"""The door: who speaks which dialect is known here and nowhere further in.

`site` is the whole HTTP face, made of rooms; `deployment` puts it on Ray Serve. `door` is the room
where models answer, with `streams` and `watch`; `count` counts tokens; all others are in `rooms`.

`dialect` says what a dialect is, `dialects` where each is spoken: `chat`, `responses` and
`messages`, each with a request, an answer and a stream. They share `shape` (a body as a checked
record), `entries` (a fusion asked for) and `extension` (what is ours beside an answer).
"""
