"""Who answers: what each model would make of a prompt, learned, and the choice among them.

`reading` reads a prompt; `features`, `words`, `encoder` and `eye` see it; `forest` and `gain`
predict; `learner` adds what live traffic taught; `objective` chooses; `train`, `evaluate` and
`report` learn and measure; `store` keeps weights. All of it is pure: the deployment around it is
in `serve`.
"""
