"""The Ray Serve application that hosts one model, nothing else: Serve configs name it.

Serve builds each application in a process of its own, so this imports no more than a model needs.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from models.scaling import Fleet
from models.spec import FakeModelSpec, VllmModel
from models.workforce import hosting

_HOSTED: TypeAdapter[VllmModel | FakeModelSpec] = TypeAdapter(VllmModel | FakeModelSpec)


def build(args: dict[str, Any]) -> Any:
    """The application that hosts the model `args["name"]` as `args["spec"]` says, within what
    `args["fleet"]` says that all models may cost."""
    fleet = Fleet.model_validate(args.get("fleet") or {})
    return hosting.deployment(args["name"], _HOSTED.validate_python(args["spec"]), fleet)
