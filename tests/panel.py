"""A panel of fake models, and a till that holds a request to its cap."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.answerer import SystemClock
from models.call import Call
from models.catalog import Catalog
from models.fake import FakeClock, FakeModel
from models.messages import (
    Completion,
    FusionOptions,
    Request,
    Sampling,
    ToolCall,
    assistant,
    user,
)
from models.prices import Price
from serve.fusion.contract import Analysis
from serve.fusion.deliberation import Resources
from serve.fusion.fusion import Fusion
from serve.fusion.judge import ModelJudge
from serve.fusion.plan import make
from serve.money.caps import Caps
from serve.money.charge import Charge, Tariff
from serve.money.fake import FakeTill
from serve.money.ledger import Entry
from serve.money.till import Hold
from serve.pipeline import Models

EMPTY = {key: [] for key in Analysis.model_fields}


ASKED = Request("fusion/trio", (user("Is water wet?"),), Sampling(max_tokens=50))


class ByName:
    """Fakes by model name, each metered."""

    def __init__(self, *fakes: FakeModel) -> None:
        price = Price.model_validate({"input": 1, "output": 1})
        self._models = {
            fake.name: Charge(fake, Tariff(fake.name, "flagship", price), FakeTill(), fake.clock)
            for fake in fakes
        }

    async def complete(self, request: Request, call: Call) -> Completion:
        return await self._models[request.model].complete(request, call)

    def stream(self, request: Request, call: Call):
        return self._models[request.model].stream(request, call)


CATALOG = Catalog.model_validate(
    {
        "models": {name: {"engine": "fake"} for name in ("one", "two", "three", "judge", "writer")},
        "panels": {
            "trio": {
                "members": ["one", {"model": "two", "persona": "Doubt it.", "temperature": 0.9}],
                "synthesis": "writer",
            }
        },
        "roles": {"judge": "judge"},
    }
)


def catalog(**changes: Any) -> Catalog:
    """The catalog with these keys of the panel changed."""
    data = CATALOG.model_dump(mode="json")
    data["panels"]["trio"] |= changes
    return Catalog.model_validate(data)


def fusion(
    *fakes: FakeModel,
    known: Catalog = CATALOG,
    clock: FakeClock | None = None,
    options: FusionOptions | None = None,
) -> Fusion:
    models = ByName(*fakes)
    resources = Resources(known, models, ModelJudge(models), clock or SystemClock())
    return Fusion(make(known, "trio", options), resources)


def cast(**replies: object) -> list[FakeModel]:
    known = {"one": "Yes.", "two": "No.", "judge": json.dumps(EMPTY), "writer": "It depends."}
    known |= {"three": "Perhaps."}
    return [FakeModel(name, reply) for name, reply in (known | replies).items()]  # type: ignore[arg-type]


class CappedTill(FakeTill):
    """A till that holds one request to its cap."""

    def __init__(self) -> None:
        super().__init__()
        self.caps = Caps()

    async def reserve(self, entry: Entry, worst: int | None, cap: int | None = None) -> Hold:
        assert cap is not None
        self.caps.reserve(("p", "r"), cap, worst or 0, 0.0)
        return await super().reserve(entry, worst, cap)

    def settle(self, hold: Hold, entry: Entry) -> None:
        super().settle(hold, entry)
        self.caps.settle(("p", "r"), hold.worst, entry.cost)


#: Every word of an answer is a millionth of a dollar, and no answer has more than a hundred.
def priced(
    till: CappedTill, fakes: list[FakeModel], rates: Mapping[str, int] | None = None
) -> tuple[Catalog, Models]:
    rates = rates or {"input": 0, "output": 1}
    data = CATALOG.model_dump(mode="json")
    spec = {"engine": "fake", "price": rates, "max_output": 100, "tools": True}
    data["models"] = {fake.name: spec for fake in fakes}
    known = Catalog.model_validate(data)
    price = Price.model_validate(rates)
    paid = {
        fake.name: Charge(fake, Tariff(fake.name, "flagship", price, 100), till, fake.clock)
        for fake in fakes
    }
    return known, Models(known, paid)


LOOKS = replace(assistant("hm"), tool_calls=(ToolCall("c", "web_search", '{"query": "x"}'),))
