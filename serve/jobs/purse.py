"""A batch's money: what each row may cost at most, and when to stop. Pure.

Every row that leaves carries a cap, and all caps together with what is spent stay within the
budget, as far as is known: what a row cost that failed is heard of a little later. A row is refused
where its worst case, which may be many times what it will cost, is above its cap: then fewer leave
at a time, each with twice as much; at once where none of those asked together was answered, else in
the next round, so that a few dear rows do not hold up the others. Where not even one such cap is
left, a row goes alone, with all that is. Only if that is too little has the money ended.
"""

from __future__ import annotations

from dataclasses import dataclass

_FIRST = 4


@dataclass(slots=True)
class Purse:
    """Nano-dollars. `budget` None: no end of money."""

    budget: int | None
    #: What the answers cost.
    spent: int = 0
    #: What the ledger knows of, a little later: rows that failed too may have cost something.
    billed: int = 0
    #: The most that a row has cost so far.
    dearest: int = 0
    #: What a row must be given: a smaller cap was refused.
    floor: int = 0
    _wanted: int = 0
    _out: int = 0
    _any_back: bool = False
    #: Rows are asked one by one, each with all that is left.
    alone: bool = False

    @property
    def left(self) -> int | None:
        return None if self.budget is None else max(0, self.budget - self._gone - self._out)

    @property
    def each(self) -> int:
        """What a row wants for a cap, as far as is known."""
        return max(self.dearest, self.floor)

    @property
    def _gone(self) -> int:
        return max(self.spent, self.billed)

    @property
    def is_empty(self) -> bool:
        return self.budget is not None and self._gone >= self.budget

    def affords(self, rows: int) -> int:
        """How many of so many rows may leave now, if each gets what one wants.

        Where that is none and nothing is out any more, the last row goes alone.
        """
        if self.left is None:
            return rows
        if not self._any_back:
            # What a row costs is seen on a few before more may leave.
            return 0 if self._out else min(rows, _FIRST)
        if not self.each:
            return rows
        if self.left < self.each and not self._out:
            self.alone = True
            return min(rows, 1)
        return min(rows, self.left // self.each)

    def take(self, rows: int, window: int) -> int | None:
        """The cap of each of `rows` rows that leave now, of `window` that may be out at once."""
        if self.left is None:
            return None
        fair = self.left // (1 if self.alone else max(rows, window))
        cap = max(fair, min(self.each, self.left // rows))
        self._out += cap * rows
        return cap

    def is_all(self, cap: int | None) -> bool:
        """Whether a row with this cap has all that is left."""
        return self.budget is None or cap is None or cap >= self.budget - self._gone

    def refused(self, cap: int) -> None:
        """This cap, which was not all that is left, is below what a row may cost."""
        self._wanted = max(self._wanted, 2 * cap + 1)

    def new_round(self) -> None:
        """Whoever was refused is asked again."""
        self.floor = self._wanted

    def returned(self, cap: int | None, rows: int, costs: list[int]) -> None:
        """So many rows came back, and some of them cost something."""
        self._any_back = True
        self.spent += sum(costs)
        self.dearest = max(self.dearest, *costs, 0)
        if not costs:
            self.floor = self._wanted
        if cap is not None:
            self._out -= cap * rows


def projected(spent: int, done: int, rows: int) -> int | None:
    """What the whole will cost if the rest costs what the rows so far did."""
    return None if not done else spent * rows // done


def seconds_left(done: int, rows: int, seconds: float) -> float | None:
    """How long the rest will take at the pace so far."""
    return None if not done else (rows - done) * seconds / done
