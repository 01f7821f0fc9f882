"""The limits that are in force: those of the catalog in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.catalog import Budget, Catalog
from models.prices import nano_of
from serve.money.ledger import Limit


class CatalogLimits:
    """`current` gives the catalog of this moment; it is read anew only when it is another."""

    def __init__(self, current: Callable[[], Catalog]) -> None:
        self._current = current
        self._read: Catalog | None = None
        self._limits: Mapping[str, Limit] = {}

    def __call__(self) -> Mapping[str, Limit]:
        catalog = self._current()
        if catalog is not self._read:
            self._limits = {name: _limit(budget) for name, budget in catalog.limits.items()}
            self._read = catalog
        return self._limits


def _limit(budget: Budget) -> Limit:
    total, day, month = (
        None if dollars is None else nano_of(dollars)
        for dollars in (budget.total, budget.day, budget.month)
    )
    return Limit(total, day, month)
