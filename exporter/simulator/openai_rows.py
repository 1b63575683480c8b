"""The results of OpenAI's usage reports: object name, fields and labels of each report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

IMAGE_SIZES = ("1024x1024",)

_COMMON_GROUPS = ("project_id", "user_id", "api_key_id", "model")


@dataclass(frozen=True, slots=True)
class UsageReport:
    """One usage report: the end of its path, and the object name, fields (name -> meter) and labels of its results."""

    path: str
    object_name: str
    field_meters: Mapping[str, str]
    group_by: tuple[str, ...]

    def fields(self, units: Mapping[str, int], *, details: bool) -> dict[str, int]:
        """Return the report's fields from units by meter; older completions results have no `details`."""
        if self.path == "completions":
            return _completion_fields(units, details=details)
        return {name: units.get(meter, 0) for name, meter in self.field_meters.items()}


def _completion_fields(units: Mapping[str, int], *, details: bool) -> dict[str, int]:
    text, audio, image, write = _counts(units, "uncached_input", "audio_input", "image_input", "cache_write")
    cached = sum(_counts(units, "cache_read", "audio_cache_read", "image_cache_read"))
    uncached = text + audio + image
    fields = {
        "input_tokens": uncached + cached + write,
        "input_cached_tokens": cached,
        "output_tokens": sum(_counts(units, "output", "audio_output", "image_output")),
        "num_model_requests": units.get("requests", 0),
    }
    if details:
        fields["input_uncached_tokens"] = uncached
        fields.update({name: units.get(meter, 0) for name, meter in _DETAIL_METERS.items()})
    return fields


def _counts(units: Mapping[str, int], *meters: str) -> list[int]:
    return [units.get(meter, 0) for meter in meters]


_DETAIL_METERS = {
    "input_cache_write_tokens": "cache_write",
    "input_text_tokens": "uncached_input",
    "input_audio_tokens": "audio_input",
    "input_image_tokens": "image_input",
    "input_cached_text_tokens": "cache_read",
    "input_cached_audio_tokens": "audio_cache_read",
    "input_cached_image_tokens": "image_cache_read",
    "output_text_tokens": "output",
    "output_audio_tokens": "audio_output",
    "output_image_tokens": "image_output",
}


def _usage_report(path: str, field_meters: Mapping[str, str], group_by: tuple[str, ...], name: str = "") -> UsageReport:
    return UsageReport(path, f"organization.usage.{name or path}.result", field_meters, group_by)


_REQUESTS_FIELD = {"num_model_requests": "requests"}

USAGE_REPORTS: Mapping[str, UsageReport] = {
    report.path: report
    for report in (
        _usage_report("completions", {}, (*_COMMON_GROUPS, "batch", "service_tier")),
        _usage_report("embeddings", {"input_tokens": "uncached_input", **_REQUESTS_FIELD}, _COMMON_GROUPS),
        _usage_report("moderations", {"input_tokens": "uncached_input", **_REQUESTS_FIELD}, _COMMON_GROUPS),
        _usage_report("images", {"images": "images", **_REQUESTS_FIELD}, (*_COMMON_GROUPS, "source", "size")),
        _usage_report("audio_speeches", {"characters": "characters", **_REQUESTS_FIELD}, _COMMON_GROUPS),
        _usage_report("audio_transcriptions", {"seconds": "seconds", **_REQUESTS_FIELD}, _COMMON_GROUPS),
        _usage_report("vector_stores", {"usage_bytes": "bytes"}, ("project_id",)),
        _usage_report("code_interpreter_sessions", {"num_sessions": "sessions"}, ("project_id",)),
        _usage_report(
            "file_search_calls",
            {"num_requests": "file_searches"},
            ("project_id", "user_id", "api_key_id", "vector_store_id"),
            name="file_searches",
        ),
        _usage_report(
            "web_search_calls",
            # Each search belongs to one model request, which completions already count.
            {"num_requests": "web_searches", "num_model_requests": "web_searches"},
            (*_COMMON_GROUPS, "context_level"),
            name="web_searches",
        ),
    )
}
