"""What well-known models cost, where a catalog does not say: `price_table.csv`.

Each row names the provider's own price page and the day on which these prices were read there
or reported from there. Prices change: a catalog's `price` always wins. Where a provider has
several rates for one model (peak hours, long prompts, how long a cache lives) the row has the
dearest, so that a bill is rather lower than booked than higher. A model that thinks out of
sight has a price for `reasoning`. A model that is not here has no price until a catalog gives
it one.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from models.prices import Price

_FILE = Path(__file__).with_suffix(".csv")
_RATES = ("input", "cached_input", "cache_write", "output", "reasoning")
#: The day that providers put behind a model's name. A row of its own says where it costs more.
_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


@cache
def rows() -> tuple[dict[str, str], ...]:
    """The table as it stands in the file."""
    with _FILE.open(encoding="utf-8", newline="") as lines:
        return tuple(csv.DictReader(lines))


@cache
def _prices() -> dict[tuple[str, str], Price]:
    return {
        (row["host"], row["model"]): Price.model_validate(
            {rate: row[rate] for rate in _RATES if row[rate]}
        )
        for row in rows()
    }


def known(base_url: str, model: str) -> Price | None:
    """What this provider takes for the model that it calls so."""
    host = urlsplit(base_url).hostname or ""
    prices = _prices()
    return prices.get((host, model)) or prices.get((host, _DATED.sub("", model)))
