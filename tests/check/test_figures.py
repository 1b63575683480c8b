"""The figures of `check account` are those of the metrics page."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from exporter.check.figures import compute_account_totals
from exporter.ledger import Ledger
from exporter.model import DAY, HOUR
from exporter.providers import PROVIDERS
from exporter.snapshot.offline import build_snapshots, stored_accounts
from exporter.windows import TimeRange
from tests.system import NOON, make_account, midnight, start_small_system


@pytest.mark.parametrize("factor", [1.0, 1.2, 0.8])
def test_the_newest_error_is_the_exported_one_after_a_restatement(tmp_path: Path, factor: float) -> None:
    """The error of the newest billed day is by its bill as it is now, here and in ai_account_estimate_error_ratio."""
    yesterday = midnight(NOON) - DAY
    with start_small_system(tmp_path, make_account("openai", "openai")) as system:
        system.poll_until_idle()
        if factor != 1:
            system.world.restate("openai", yesterday, factor)
        system.advance(HOUR + HOUR / 6)
        exported = system.value("ai_account_estimate_error_ratio")
        now = system.clock.now
        with closing(Ledger(system.folder / "ledger", read_only=True)) as ledger:
            views = stored_accounts(ledger, system.config.accounts, (), PROVIDERS)
            (snapshot,) = build_snapshots(ledger, views, now)
    totals = compute_account_totals(snapshot, TimeRange(midnight(now) - 3 * DAY, now))
    errors = {day.start: day.error_ratio for day in totals.days if day.error_ratio is not None}
    assert max(errors) == yesterday
    assert errors[yesterday] == pytest.approx(exported, abs=1e-6)
    assert errors[yesterday] == pytest.approx(1 / factor - 1, abs=0.15)
    assert (errors[yesterday] < -0.05) == (factor > 1)
