"""Renders an account's snapshot. Every metric family of an account has its sample function here."""

from __future__ import annotations

from collections.abc import Collection

from exporter.metrics.account_status import STATUS_SAMPLES
from exporter.metrics.exposition import SampleLines, render_samples
from exporter.metrics.families import Family
from exporter.metrics.label_text import LabelText, SampleFunctions
from exporter.metrics.signals import SIGNAL_SAMPLES
from exporter.metrics.spend import SPEND_SAMPLES
from exporter.snapshot.account_snapshot import AccountSnapshot

ACCOUNT_SAMPLES: SampleFunctions = {**SPEND_SAMPLES, **SIGNAL_SAMPLES, **STATUS_SAMPLES}


def render_account(snapshot: AccountSnapshot, families: Collection[Family] = ACCOUNT_SAMPLES.keys()) -> SampleLines:
    """Return the sample lines of the families, in both text formats alike."""
    text = LabelText(snapshot)
    return {
        family: render_samples(family, get_samples(snapshot, text))
        for family, get_samples in ACCOUNT_SAMPLES.items()
        if family in families
    }
