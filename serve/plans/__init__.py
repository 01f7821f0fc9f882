"""Plans: a task as a graph of subtasks, most of which are easy.

`graph` is what a plan is, `run` decides what to do next (both pure), `planner` asks a model for a
graph, `plan` carries it out, `reading` splits documents, `record` keeps what was done.
"""
