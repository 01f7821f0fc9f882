"""Proof: public benchmarks and a user's own questions, scored beside what they cost."""
