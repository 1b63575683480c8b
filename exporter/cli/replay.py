"""`replay`: would these rules have fired on the past?"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.table import Table

from exporter.backtest.gauges import courses
from exporter.backtest.offline import newest_hour, past, pasts, tellers, whole_days
from exporter.backtest.promtool import Episode, ReplayError, fired
from exporter.backtest.promtool_series import STEP
from exporter.backtest.rule_files import prometheus_files
from exporter.cli.command import config_option, main, now, said_plainly, storage_option
from exporter.config import configuration as settings
from exporter.config.configuration import Config
from exporter.history.hourly import Teller
from exporter.ledger import Ledger
from exporter.model import DAY
from exporter.providers import load_providers
from exporter.windows import Span, days_back

_DAY = click.DateTime(["%Y-%m-%d"])
USUAL = 7
"""Days that are replayed unless said."""


@main.command()
@config_option
@storage_option
@click.option(
    "--rules",
    "place",
    type=click.Path(path_type=Path, exists=True),
    help="A file of rules, or a folder of *.yml.  [default: those that come along]",
)
@click.option("--from", "since", type=_DAY, help=f"The first UTC day.  [default: {USUAL} days ago]")
@click.option("--to", "last", type=_DAY, help="The last UTC day.  [default: up to the newest complete hour]")
@click.option("--promtool", type=click.Path(path_type=Path), help="The program.  [default: the one in PATH]")
def replay(
    *,
    path: Path,
    folder: Path,
    place: Path | None,
    since: datetime | None,
    last: datetime | None,
    promtool: Path | None,
) -> None:
    """Tell which alerts these rules would have fired on your own past, when and for how long.

    The ledger's past is written as the gauges that would have been scraped, and promtool runs the rules over it. Works
    beside a running exporter. How polls went is not remembered, so alerts about health keep silent.
    """
    place = place or prometheus_files() / "rules"
    rules = sorted(place.glob("*.yml")) if place.is_dir() else [place]
    with said_plainly():
        providers = load_providers()
        config = settings.load(path, providers)
        names = _alerts(rules, place)
        program = promtool or Path(shutil.which("promtool") or "promtool")
        with past(folder) as ledger:
            told = tellers(ledger, config.accounts, providers, now())
            # Of no account at all: the reason is told.
            whole_days(ledger, told, None, days_back(now(), 0))
            end = newest_hour(told)
            if last is not None:
                end = min(end, last.replace(tzinfo=UTC) + DAY)
            start = days_back(end, USUAL) if since is None else since.replace(tzinfo=UTC)
            if start >= end:
                raise click.BadParameter(
                    f"{start:%Y-%m-%d} is not before {end:%Y-%m-%d %H:%M} UTC", param_hint="--from"
                )
            span = Span(start, end)
            episodes = _replayed(ledger, config, told, rules, span, program)
    _print(episodes, span, names)


def _alerts(rules: Sequence[Path], place: Path) -> list[str]:
    """Return the names of all alerts. Raises ReplayError where there is none."""
    names = []
    for file in rules:
        try:
            told = yaml.safe_load(file.read_text(encoding="utf-8"))
            names += [rule["alert"] for group in told["groups"] for rule in group["rules"] if "alert" in rule]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
            raise ReplayError(f"{file} is no file of rules: {str(error) or type(error).__name__}.") from error
    if not names:
        raise ReplayError(f"There is no alert in {place}. Point --rules at a file of rules, or at a folder of *.yml.")
    return names


def _replayed(
    ledger: Ledger, config: Config, told: Sequence[Teller], rules: Sequence[Path], span: Span, program: Path
) -> list[Episode]:
    accounts = pasts(ledger, told, config.accounts, span)
    for name in sorted({one.name for one in told} - {one.account.name for one in accounts}):
        click.echo(f"warning: {name} is left out, for it is not told up to {span.end:%Y-%m-%d %H:%M} UTC", err=True)
    screen = Console(stderr=True)
    with screen.status(f"Writing {span.start:%Y-%m-%d} to {span.end:%Y-%m-%d %H:%M} as gauges ...") as status:
        looked_at = "".join(file.read_text(encoding="utf-8") for file in rules)
        told_of = (one for one in courses(accounts, config.budgets, span) if one.text.partition("{")[0] in looked_at)
        gauges = list(told_of)
        status.update(f"Running {len(rules)} files of rules over {len(gauges)} series ...")
        return fired(program, rules, gauges, span.start, (span.end - span.start) // STEP)


def _print(episodes: Sequence[Episode], span: Span, names: Sequence[str]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("Since (UTC)", "For", "Severity", "Alert", "Of"):
        table.add_column(heading, overflow="fold")
    for one in episodes:
        lasted = "to the end" if one.until is None else _told(one.until - one.since)
        rest = " ".join(f"{name}={value}" for name, value in one.labels.items() if name not in _PLAIN)
        table.add_row(f"{one.since:%Y-%m-%d %H:%M}", lasted, one.labels.get("severity", ""), one.alert, rest)
    screen = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False)
    if episodes:
        screen.print(table)
        screen.print()
    count = Counter(one.alert for one in episodes)
    days = (span.end - span.start) / DAY
    screen.print(f"{len(episodes)} times in {days:.1f} days, {span.start:%Y-%m-%d} to {span.end:%Y-%m-%d %H:%M} UTC:")
    for name, times in count.most_common():
        screen.print(f"  {name} {times}")
    if silent := sorted(set(names) - set(count)):
        screen.print(f"Silent: {', '.join(silent)}.", soft_wrap=not sys.stdout.isatty())


_PLAIN = ("severity", "job", "instance")


def _told(lasted: timedelta) -> str:
    hours, minutes = divmod(lasted // timedelta(minutes=1), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
