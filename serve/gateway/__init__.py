"""The door: HTTP stands here and nowhere further in.

`site` is the whole HTTP face, made of rooms; `deployment` puts it on Ray Serve. `door` is the room
where models answer, with `streams` and `watch`; `count` counts tokens; all others are in `rooms`.
What clients say is translated by `serve.dialects`.
"""
