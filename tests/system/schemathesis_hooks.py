"""What schemathesis has to be told of us; it loads this file by the variable ``SCHEMATHESIS_HOOKS``."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

KEEPER = os.environ["KEEPER"]
"""The account that all calls are made with. It finds the name in the list of accounts, and would remove it."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Take from a case what it can't know."""
    name = case.path_parameters.get("name")
    if isinstance(name, str) and name.lower() == KEEPER:
        case.path_parameters["name"] = "somebody-else"
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict):
        _agree(case, case.body)
    for name in ("id", "destination"):
        if isinstance(case.query.get(name), list):
            case.query[name] = _few_patterns(case.query[name])


def _agree(case: schemathesis.Case, body: dict[str, Any]) -> None:
    """See to what no schema can say: how two values of a good call have to fit each other."""
    if body.get("key") is not None:
        case.headers.pop("Idempotency-Key", None)  # in both places it would have to be the same
    rate = body.get("rate")
    if isinstance(rate, dict) and rate.get("max") is not None:
        rate["max"] = max(rate["max"], rate["perMinute"])


def _few_patterns(texts: list[Any]) -> list[Any]:
    """As many of them with a * as a filter may have."""
    starred = [text for text in texts if "*" in str(text)]
    return [text for text in texts if text not in starred[10:]]
