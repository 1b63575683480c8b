"""One small world per situation in which an estimate can go wrong: an account, a week or so, and what is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from exporter.model import DAY
from exporter.simulator.accounts import CHAT, Extra, Mix, PriceChange, SimAccount, Stream

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
STABLE, SHIFTING = 0.001, 0.01
"""What is claimed of an estimate: where the mix is the same from day to day, and where it is not."""

_CLAUDE: Mix = (("uncached_input", 900.0), ("cache_read", 9800.0), ("cache_write_5m", 1300.0), ("output", 520.0))
_CLAUDE_HOUR: Mix = (*_CLAUDE, ("cache_write_1h", 2600.0))
_CLAUDE_LONG: Mix = (("uncached_input", 260_000.0), ("cache_read", 40_000.0), ("output", 2100.0))
_BULK: Mix = (("uncached_input", 2300.0), ("output", 260.0))
_GPT, _MINI, _TERRA = "gpt-5.4-2026-03-05", "gpt-5.4-mini-2026-03-17", "gpt-5.6-terra"
_OPUS, _SONNET, _HAIKU = "claude-opus-5", "claude-sonnet-5", "claude-haiku-4-5-20251001"
_BUSY_EARLY = (2.0, 0.4, 1.6, 0.3, 1.5, 3.0, 1.0)
_BUSY_LATE = (0.4, 2.0, 0.5, 1.8, 0.6, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One situation; days are counted from 0, the first day of use."""

    name: str
    says: str
    """What happens, for the table."""
    account: SimAccount
    bound: float
    """The largest error of an estimate that is made after the first bill."""
    days: int = 5
    first: datetime = MONDAY
    surprises: frozenset[int] = frozenset()
    """Days on which something is new that no bill has told of yet: nothing is claimed of them."""
    restated: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    """In the morning after a day: the earlier day whose bill is changed then, and by which factor."""

    def day(self, number: int) -> datetime:
        """Return the midnight with which a day begins."""
        return self.first + number * DAY


def _claude(model: str, tier: str = "standard", mix: Mix = _CLAUDE, **more: Any) -> Stream:
    return Stream("wrkspc_a", model, tier, kind="messages", **{"size": 3000.0, "mix": mix, **more})


def _gpts(model: str, tier: str = "standard", mix: Mix = CHAT, **more: Any) -> Stream:
    return Stream("proj_a", model, tier, **{"size": 3000.0, "mix": mix, **more})


def _account(provider: Literal["openai", "anthropic"], *streams: Stream, **more: Any) -> SimAccount:
    key = {"openai": "sk-admin-scenario", "anthropic": "sk-ant-admin01-scenario"}[provider]
    workspaces = {stream.workspace: "A" for stream in streams}
    return SimAccount("acme", provider, "platform", key, "Acme", streams, workspaces, **more)


_TWO_CLAUDES = (_claude(_SONNET), _claude(_HAIKU))
_TWO_GPTS = (_gpts(_GPT), _gpts(_MINI))
_OWN_PROJECT = replace(_gpts(_MINI), workspace="proj_b")


def _plain() -> list[Scenario]:
    return [
        Scenario(
            "list price",
            "everything is billed at list prices",
            _account("openai", *_TWO_GPTS, _gpts(_MINI, "batch", _BULK, shape="nightly")),
            STABLE,
            days=4,
        ),
        Scenario(
            "discount",
            "17 % less than list, which nobody told us",
            _account("anthropic", *_TWO_CLAUDES, discount=0.17),
            STABLE,
            days=8,
        ),
        Scenario(
            "price change",
            "all models 20 % dearer from the fifth day on, one of them by another 50 %",
            _account(
                "openai",
                *_TWO_GPTS,
                discount=0.1,
                price_changes=(
                    PriceChange((MONDAY + 4 * DAY).date(), 1.2),
                    PriceChange((MONDAY + 4 * DAY).date(), 1.5, "gpt-5.4-mini*"),
                ),
            ),
            STABLE,
            days=8,
            surprises=frozenset({4}),
        ),
        Scenario(
            "new model",
            "a model without a list price, used from the fourth day on",
            _account(
                "anthropic", *_TWO_CLAUDES, _claude("claude-nova-1", since=(MONDAY + 3 * DAY).date()), discount=0.1
            ),
            STABLE,
            days=7,
            surprises=frozenset({3}),
        ),
        Scenario(
            "unlisted model",
            "most of the money is a model's without a list price, from the first day on",
            _account("openai", _gpts("gpt-nova"), _gpts(_MINI, size=500.0), amount_as="string"),
            STABLE,
        ),
    ]


def _dimensions() -> list[Scenario]:
    return [
        Scenario(
            "batch and 1 h cache",
            "half-price batches and cache writes of both lifetimes, 12 % off",
            _account(
                "anthropic",
                _claude(_OPUS, mix=_CLAUDE_HOUR),
                _claude(_OPUS, "batch", _CLAUDE_HOUR, shape="nightly"),
                _claude(_SONNET, "batch", _BULK, shape="nightly"),
                discount=0.12,
            ),
            STABLE,
        ),
        Scenario(
            "first batch",
            "a tier used for the first time on the fourth day, 17 % off",
            _account(
                "openai",
                _gpts(_MINI),
                _gpts(_MINI, "batch", shape="nightly", since=(MONDAY + 3 * DAY).date()),
                _gpts(_GPT),
                discount=0.17,
            ),
            STABLE,
        ),
        Scenario(
            "long context, told",
            "requests of more than 200,000 tokens, which Anthropic's usage tells apart",
            _account(
                "anthropic",
                _claude("claude-sonnet-4-5-20250929"),
                _claude("claude-sonnet-4-5-20250929", mix=_CLAUDE_LONG, size=60.0, context="200k-1M"),
                discount=0.1,
            ),
            STABLE,
        ),
        Scenario(
            "long context, untold",
            "30 % of a model's tokens are billed as long context, which OpenAI's usage does not tell",
            _account("openai", _gpts(_GPT, long_share=0.3), _gpts(_MINI), discount=0.1),
            STABLE,
        ),
        Scenario(
            "long context, moving",
            "the untold part, some 3 % of the tokens, moves a little from day to day",
            _account(
                "openai",
                _gpts(_GPT, size=2820.0),
                _gpts(_GPT, size=180.0, long_share=0.5, weekdays=(1.0, 1.05, 0.97, 1.06, 1.0, 0.95, 1.05)),
                discount=0.1,
            ),
            SHIFTING,
        ),
        Scenario(
            "region, untold",
            "a fifth of the use is billed with a regional uplift, a share that moves from day to day",
            _account(
                "anthropic",
                _claude(_SONNET, size=2400.0),
                _claude(_SONNET, size=600.0, region="us", weekdays=(1.0, 1.2, 0.9, 1.1, 1.0, 0.9, 1.1)),
            ),
            SHIFTING,
        ),
        Scenario(
            "names differ",
            "the bill writes models with a date where usage does not, and the other way round",
            _account(
                "openai",
                _gpts(_GPT, billed_as="gpt-5.4"),
                _gpts(_MINI, billed_as="gpt-5.4-mini"),
                _gpts(_TERRA, billed_as="gpt-5.6-terra-2026-07-09"),
                discount=0.17,
            ),
            STABLE,
        ),
        Scenario(
            "priority tier",
            "Anthropic's priority tokens are in the usage and never on the bill",
            _account("anthropic", *_TWO_CLAUDES, _claude(_OPUS, "priority", size=1500.0), discount=0.05),
            STABLE,
        ),
    ]


def _bills() -> list[Scenario]:
    return [
        Scenario(
            "late bill",
            "every bill appears two days after its day",
            _account("openai", *_TWO_GPTS, discount=0.17, bill_after=2 * DAY),
            STABLE,
            days=8,
        ),
        Scenario(
            "restated bill",
            "bills of closed days are changed afterwards, one up and one down",
            _account("anthropic", *_TWO_CLAUDES, discount=0.05),
            STABLE,
            days=7,
            restated={3: (1, 1.1), 5: (3, 0.8)},
        ),
        Scenario(
            "session money",
            "session runtime and code execution on the bill, in step with the use",
            _account(
                "anthropic",
                *_TWO_CLAUDES,
                discount=0.17,
                extras=(
                    Extra("wrkspc_a", "Session Runtime Usage", share=0.08, kind="session_usage"),
                    Extra("wrkspc_a", "Code Execution Usage", share=0.03, kind="code_execution"),
                ),
            ),
            STABLE,
            days=8,
        ),
        Scenario(
            "storage alone",
            "a project that only keeps files: the same money every day and no usage at all",
            _account("openai", *_TWO_GPTS, extras=(Extra("proj_archive", "Vector storage", usd=4.0),)),
            STABLE,
            days=7,
        ),
        Scenario(
            "storage in use",
            "the same money for storage every day in a project whose use varies, on working days",
            _account("openai", _gpts(_GPT), _OWN_PROJECT, extras=(Extra("proj_b", "Vector storage", usd=1.5),)),
            SHIFTING,
            days=5,
        ),
    ]


def _calendar() -> list[Scenario]:
    return [
        Scenario(
            "month change",
            "October becomes November",
            _account("openai", *_TWO_GPTS, discount=0.17, amount_as="string"),
            STABLE,
            days=6,
            first=datetime(2026, 10, 29, tzinfo=UTC),
        ),
        Scenario(
            "days off",
            "nobody works at the weekend",
            _account(
                "anthropic",
                *(replace(one, weekdays=(1.0,) * 5 + (0.0, 0.0)) for one in _TWO_CLAUDES),
                discount=0.17,
                bill_after=timedelta(hours=7),
            ),
            STABLE,
            first=MONDAY + 2 * DAY,
            days=7,
        ),
        Scenario(
            "mix shift",
            "shares of models and tiers change from day to day, 17 % off",
            _account(
                "openai",
                _gpts(_GPT, weekdays=_BUSY_EARLY),
                _gpts(_MINI, size=9000.0, weekdays=_BUSY_LATE),
                _gpts(_TERRA, "flex", _BULK, size=6000.0, weekdays=_BUSY_LATE[::-1]),
                _gpts(_GPT, "batch", _BULK, size=6000.0, shape="nightly", weekdays=_BUSY_EARLY[::-1]),
                discount=0.17,
            ),
            SHIFTING,
            days=8,
        ),
    ]


SCENARIOS = {one.name: one for one in (*_plain(), *_dimensions(), *_bills(), *_calendar())}
