"""`replay`: would these rules have fired on the past?"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from exporter.backtest.promtool import AlertEpisode, ReplayError, find_alert_episodes
from exporter.backtest.promtool_series import STEP
from exporter.backtest.rule_files import find_prometheus_folder
from exporter.backtest.rule_inputs import Judgement, RuleInputs, judge_silent_alerts
from exporter.backtest.rules import Rules, load_rules
from exporter.backtest.sampling import SAMPLED_FAMILIES, STEPS_PER_HOUR, families_in_rules, sample_series
from exporter.cli.command import config_option, exit_on_error, main, now, storage_options
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
from exporter.ledger import Ledger, LedgerLocation
from exporter.model import DAY
from exporter.providers import load_providers
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.windows import TimeRange, days_back

_DATE = click.DateTime(["%Y-%m-%d"])
DEFAULT_DAYS = 7
"""Days that are replayed without --from."""


@main.command()
@config_option
@storage_options
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
    location: LedgerLocation,
    place: Path | None,
    since: datetime | None,
    last: datetime | None,
    promtool: Path | None,
) -> None:
    """Show which alerts the rules would have fired on your own past, when and for how long.

    The metrics that would have been scraped are computed from the ledger, and promtool runs the rules over them. Works
    beside a running exporter. Alerts whose inputs the ledger does not record, such as those about the exporter's
    health, or for which the time range is too short, are listed as not judged, with the reason.
    """
    place = place or find_prometheus_folder() / "rules"
    files = sorted(place.glob("*.yml")) if place.is_dir() else [place]
    with exit_on_error():
        providers = load_providers()
        config = settings.load(path, providers)
        rules = _load_alert_rules(files, place)
        program = promtool or Path(shutil.which("promtool") or "promtool")
        with open_ledger(location) as ledger:
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
            result = _run_rules(ledger, config, snapshots, rules, files, span, program)
    _print_episodes(result.episodes, span)
    _print_silent_alerts(result.silent_alerts, span)


def _load_alert_rules(files: Sequence[Path], rules_path: Path) -> Rules:
    """Return the rules of files. Raises ReplayError where there is no alert among them."""
    rules = load_rules(files)
    if not rules.alerts:
        raise ReplayError(
            f"There is no alert in {rules_path}. Point --rules at a file of rules, or at a folder of *.yml."
        )
    return rules


@dataclass(frozen=True, slots=True)
class _ReplayResult:
    episodes: Sequence[AlertEpisode]
    silent_alerts: Mapping[str, Judgement]
    """Alerts that did not fire, by name."""


def _run_rules(
    ledger: Ledger,
    config: Config,
    snapshots: Sequence[AccountSnapshot],
    rules: Rules,
    files: Sequence[Path],
    time_range: TimeRange,
    promtool: Path,
) -> _ReplayResult:
    accounts = load_past_accounts(ledger, snapshots, time_range)
    included = {account.source.view.account.name for account in accounts}
    for name in sorted({snapshot.account.name for snapshot in snapshots} - included):
        until = f"{time_range.end:%Y-%m-%d %H:%M} UTC"
        click.echo(f"warning: {name} is left out: its usage is not complete up to {until}", err=True)
    screen, days = Console(stderr=True), f"{time_range.start:%Y-%m-%d} to {time_range.end:%Y-%m-%d %H:%M}"
    with screen.status(f"Writing {days} as gauges ...") as status:
        families = families_in_rules("".join(file.read_text(encoding="utf-8") for file in files))
        series = list(sample_series(accounts, config.budgets, families, time_range))
        status.update(f"Running {len(files)} files of rules over {len(series)} series ...")
        duration = time_range.end - time_range.start
        episodes = find_alert_episodes(promtool, files, series, time_range.start, duration // STEP)
    inputs = RuleInputs(rules, series, [family.name for family in SAMPLED_FAMILIES])
    fired = {episode.alert for episode in episodes}
    return _ReplayResult(episodes, judge_silent_alerts(rules, inputs, fired, duration))


def _print_episodes(episodes: Sequence[AlertEpisode], time_range: TimeRange) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("Since (UTC)", "For", "Severity", "Alert", "Of"):
        table.add_column(heading, overflow="fold")
    for episode in episodes:
        ongoing = episode.until is None
        duration = "to the end" if ongoing else _format_hours((episode.until or episode.since) - episode.since)
        labels = " ".join(f"{name}={value}" for name, value in episode.labels.items() if name not in _OMITTED_LABELS)
        severity = episode.labels.get("severity", "")
        table.add_row(f"{episode.since:%Y-%m-%d %H:%M}", duration, severity, episode.alert, labels)
    screen = _create_console()
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


def _print_silent_alerts(judgements: Mapping[str, Judgement], time_range: TimeRange) -> None:
    """Print which alerts would not have fired, and which cannot be judged, with the reason."""
    screen, soft_wrap = _create_console(), not sys.stdout.isatty()
    silent = []
    for name, judgement in judgements.items():
        if not judgement.reason:
            since = time_range.start + judgement.first_step * STEP
            # Series begin within the first hour of a replay, with their first watermark or their first usage.
            is_late = judgement.first_step > STEPS_PER_HOUR
            silent.append(f"{name} (judged from {since:%Y-%m-%d %H:%M})" if is_late else name)
    if silent:
        screen.print(f"Silent: {', '.join(silent)}.", soft_wrap=soft_wrap)
    not_judged = {name: judgement.reason for name, judgement in judgements.items() if judgement.reason}
    if not_judged:
        screen.print("Not judged:")
    for name, reason in not_judged.items():
        screen.print(f"  {name}: {reason}", soft_wrap=soft_wrap)


def _create_console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False)


_OMITTED_LABELS = ("severity", "job", "instance")


def _format_hours(duration: timedelta) -> str:
    hours, minutes = divmod(duration // timedelta(minutes=1), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
