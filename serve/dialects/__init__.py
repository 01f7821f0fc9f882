"""The languages that clients speak, each a pure translation: a body to a Request, and a Completion
or its stream back. Known to the door and to batch files, and nowhere further in.

`dialect` says what a dialect is, `paths` where each is spoken: `chat`, `responses` and `messages`,
each with a request, an answer and a stream. They share `shape` (a body as a checked record),
`entries` (a fusion asked for) and `extension` (what is ours beside an answer).
"""
