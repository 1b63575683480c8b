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

from exporter.backtest.promtool import AlertEpisode, ReplayError, find_alert_episodes
from exporter.backtest.promtool_series import STEP
from exporter.backtest.rule_files import find_prometheus_folder
from exporter.backtest.sampling import families_in_rules, sample_series
from exporter.cli.command import config_option, exit_on_error, main, now, storage_option
from exporter.cli.offline import (
    known_day_range,
    load_past_accounts,
    load_polled_snapshots,
    newest_complete_hour,
    open_ledger,
)
from exporter.config import configuration as settings
from exporter.config.configuration import Config
from exporter.history.hourly import history_accounts
from exporter.ledger import Ledger
from exporter.model import DAY
from exporter.providers import load_providers
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.windows import TimeRange, days_back

_DATE = click.DateTime(["%Y-%m-%d"])
DEFAULT_DAYS = 7
"""Days that are replayed without --from."""


@main.command()
@config_option
@storage_option
@click.option(
    "--rules",
    "place",
    type=click.Path(path_type=Path, exists=True),
    help="A file of rules, or a folder of *.yml.  [default: those that come along]",
)
@click.option("--from", "since", type=_DATE, help=f"The first UTC day.  [default: {DEFAULT_DAYS} days ago]")
@click.option("--to", "last", type=_DATE, help="The last UTC day.  [default: up to the newest complete hour]")
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
    """Show which alerts the rules would have fired on your own past, when and for how long.

    The metrics that would have been scraped are computed from the ledger, and promtool runs the rules over them. Works
    beside a running exporter. The ledger does not record polls, so alerts about the exporter's health do not fire.
    """
    place = place or find_prometheus_folder() / "rules"
    rules = sorted(place.glob("*.yml")) if place.is_dir() else [place]
    with exit_on_error():
        providers = load_providers()
        config = settings.load(path, providers)
        names = _load_alert_names(rules, place)
        program = promtool or Path(shutil.which("promtool") or "promtool")
        with open_ledger(folder) as ledger:
            snapshots = load_polled_snapshots(ledger, config, providers, now())
            # Raises with the reason where the ledger has no account at all.
            known_day_range(ledger, history_accounts(snapshots), None, days_back(now(), 0))
            end = newest_complete_hour(snapshots)
            if last is not None:
                end = min(end, last.replace(tzinfo=UTC) + DAY)
            start = days_back(end, DEFAULT_DAYS) if since is None else since.replace(tzinfo=UTC)
            if start >= end:
                raise click.BadParameter(
                    f"{start:%Y-%m-%d} is not before {end:%Y-%m-%d %H:%M} UTC", param_hint="--from"
                )
            span = TimeRange(start, end)
            episodes = _run_rules(ledger, config, snapshots, rules, span, program)
    _print_episodes(episodes, span, names)


def _load_alert_names(rules: Sequence[Path], rules_path: Path) -> list[str]:
    """Return the names of all alerts. Raises ReplayError where there is none."""
    names = []
    for file in rules:
        try:
            groups = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
            names += [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
            raise ReplayError(f"{file} is not a rule file: {str(error) or type(error).__name__}.") from error
    if not names:
        raise ReplayError(
            f"There is no alert in {rules_path}. Point --rules at a file of rules, or at a folder of *.yml."
        )
    return names


def _run_rules(
    ledger: Ledger,
    config: Config,
    snapshots: Sequence[AccountSnapshot],
    rules: Sequence[Path],
    time_range: TimeRange,
    promtool: Path,
) -> list[AlertEpisode]:
    accounts = load_past_accounts(ledger, snapshots, time_range)
    included = {account.source.view.account.name for account in accounts}
    for name in sorted({snapshot.account.name for snapshot in snapshots} - included):
        until = f"{time_range.end:%Y-%m-%d %H:%M} UTC"
        click.echo(f"warning: {name} is left out: its usage is not complete up to {until}", err=True)
    screen, days = Console(stderr=True), f"{time_range.start:%Y-%m-%d} to {time_range.end:%Y-%m-%d %H:%M}"
    with screen.status(f"Writing {days} as gauges ...") as status:
        families = families_in_rules("".join(file.read_text(encoding="utf-8") for file in rules))
        series = list(sample_series(accounts, config.budgets, families, time_range))
        status.update(f"Running {len(rules)} files of rules over {len(series)} series ...")
        step_count = (time_range.end - time_range.start) // STEP
        return find_alert_episodes(promtool, rules, series, time_range.start, step_count)


def _print_episodes(episodes: Sequence[AlertEpisode], time_range: TimeRange, alert_names: Sequence[str]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("Since (UTC)", "For", "Severity", "Alert", "Of"):
        table.add_column(heading, overflow="fold")
    for episode in episodes:
        ongoing = episode.until is None
        duration = "to the end" if ongoing else _format_hours((episode.until or episode.since) - episode.since)
        labels = " ".join(f"{name}={value}" for name, value in episode.labels.items() if name not in _OMITTED_LABELS)
        severity = episode.labels.get("severity", "")
        table.add_row(f"{episode.since:%Y-%m-%d %H:%M}", duration, severity, episode.alert, labels)
    screen = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False)
    if episodes:
        screen.print(table)
        screen.print()
    count = Counter(episode.alert for episode in episodes)
    days = (time_range.end - time_range.start) / DAY
    screen.print(
        f"{len(episodes)} times in {days:.1f} days, {time_range.start:%Y-%m-%d} to {time_range.end:%Y-%m-%d %H:%M} UTC:"
    )
    for name, times in count.most_common():
        screen.print(f"  {name} {times}")
    if silent := sorted(set(alert_names) - set(count)):
        screen.print(f"Silent: {', '.join(silent)}.", soft_wrap=not sys.stdout.isatty())


_OMITTED_LABELS = ("severity", "job", "instance")


def _format_hours(duration: timedelta) -> str:
    hours, minutes = divmod(duration // timedelta(minutes=1), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
