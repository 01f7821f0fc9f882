"""Who answers: what each model would make of a prompt, learned, and the choice among them.

`features`, `encoder` and `eye` see a prompt; `forest` and `gain` predict; `objective` chooses;
`train`, `evaluate` and `report` learn and measure; `store` keeps weights; `actor` is the
deployment, which does not use them yet.
"""
