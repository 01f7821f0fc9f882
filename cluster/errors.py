"""What can be wrong with the values that scaling and the simulator are given.

    ClusterError
    ├── ProfileError     the profile file: unreadable, a field missing, unknown or out of range
    ├── TraceError       the trace file: unreadable, empty, a column missing, a row that is none
    ├── PriceError       a price that is missing, zero or negative
    ├── FitError         a model that no node type can hold; says which memory is missing
    ├── BudgetError      a budget that does not pay for one replica
    └── PolicyError      a policy of the simulator that is unknown or cannot be loaded

Each message is one sentence for the user: what is wrong, where, and what to do.
"""

from __future__ import annotations


class ClusterError(Exception):
    """Base of everything that `cluster` refuses. `code` is stable, the message is not."""

    code = "cluster_error"


class ProfileError(ClusterError):
    """The profile file cannot be used."""

    code = "profile_invalid"


class TraceError(ClusterError):
    """The trace file cannot be used."""

    code = "trace_invalid"


class PriceError(ClusterError):
    """A price is missing, zero or negative."""

    code = "price_invalid"


class FitError(ClusterError):
    """A model fits no node type."""

    code = "model_does_not_fit"


class BudgetError(ClusterError):
    """A budget cannot pay for what it must at least pay for."""

    code = "budget_too_small"


class PolicyError(ClusterError):
    """A policy named for the simulator is unknown or cannot be loaded."""

    code = "policy_invalid"
