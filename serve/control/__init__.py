"""Rules for every model alike, people's approvals, and sessions: state that is ours.

policy/      the rules, pure: an event and a state in, a verdict out
counters     what the rules count, as transactions of the store
audit        every verdict, for good
control      asks the rules at each phase and does what they say
approvals    the durable record of an ask, and the parked call behind it
sessions     conversations
idempotency  the same key twice is one answer
"""
