"""`fusion/auto`: the learned router at work.

`question` says what may be chosen for a request, `auto` carries the choice out, `cascade` asks
a cheap model first and looks at its answer, `notebook` keeps in the store what happened, `mind`
is one replica of the router, `room` is all of it over HTTP.
"""
