"""The accounts of the demo: a company with five accounts at three providers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from exporter.simulator.accounts import Member, Mix, SimAccount, Stream

AGENT: Mix = (("uncached_input", 4200.0), ("cache_read", 14500.0), ("output", 950.0))
AGENT_WRITES: Mix = (("uncached_input", 2600.0), ("cache_read", 15500.0), ("cache_write", 2100.0), ("output", 950.0))
BULK: Mix = (("uncached_input", 2300.0), ("output", 260.0))
VOICE: Mix = (
    ("uncached_input", 240.0),
    ("audio_input", 1100.0),
    ("audio_cache_read", 300.0),
    ("output", 130.0),
    ("audio_output", 620.0),
)
PICTURE: Mix = (("uncached_input", 110.0), ("image_input", 280.0), ("image_output", 1700.0))
CLAUDE: Mix = (("uncached_input", 900.0), ("cache_read", 9800.0), ("cache_write_5m", 1300.0), ("output", 520.0))
CLAUDE_LONG_CACHE: Mix = (
    ("uncached_input", 700.0),
    ("cache_read", 24000.0),
    ("cache_write_5m", 1500.0),
    ("cache_write_1h", 2600.0),
    ("output", 780.0),
)
CLAUDE_SEARCH: Mix = (("uncached_input", 5200.0), ("output", 640.0), ("web_searches", 1.6))
CLAUDE_LONG: Mix = (("uncached_input", 260_000.0), ("cache_read", 40_000.0), ("output", 2100.0))
EDITOR: Mix = (("uncached_input", 900.0), ("cache_write", 4100.0), ("cache_read", 42_000.0), ("output", 800.0))

_WEB, _SUPPORT, _SEARCH, _DATA = "proj_webAssistant", "proj_supportBot", "proj_siteSearch", "proj_dataPlatform"
_VOICE, _STUDIO, _TOOLS, _LEGACY = "proj_mobileVoice", "proj_creativeStudio", "proj_internalTools", "proj_legacyChat"


def demo_accounts() -> Sequence[SimAccount]:
    """Return the five accounts, with about eighty combinations of workspace, model and tier."""
    return (_acme_openai(), _labs_openai(), _acme_anthropic(), _research_anthropic(), _acme_cursor())


def _acme_openai() -> SimAccount:
    names = ("web", "support", "search", "etl", "voice", "studio", "tools", "legacy")
    return SimAccount(
        name="acme-openai",
        provider="openai",
        owner="platform",
        key="sk-admin-demo-acme-0000",
        organization="Acme",
        streams=(*_acme_chat_streams(), *_acme_batch_streams(), *_acme_media_streams(), *_acme_other_streams()),
        workspaces={
            _WEB: "Web assistant",
            _SUPPORT: "Support bot",
            _SEARCH: "Site search",
            _DATA: "Data platform",
            _VOICE: "Mobile voice",
            _STUDIO: "Creative studio",
            _TOOLS: "Internal tools",
            _LEGACY: "Legacy chat",
        },
        archived_workspaces=frozenset({_LEGACY}),
        api_keys={f"key_{name}Main": f"{name}-production" for name in names} | {"key_webCanary": "web-canary"},
        discount=0.08,
        bill_delay=timedelta(hours=5),
    )


def _acme_chat_streams() -> Iterable[Stream]:
    web, support, tools = "key_webMain", "key_supportMain", "key_toolsMain"
    yield Stream(_WEB, "gpt-5.6-sol", api_key=web, daily_requests=9000, mix=AGENT_WRITES)
    yield Stream(_WEB, "gpt-5.6-sol", "priority", web, daily_requests=1500, mix=AGENT_WRITES)
    yield Stream(_WEB, "gpt-5.6-terra", api_key=web, daily_requests=14000, mix=AGENT_WRITES)
    yield Stream(_WEB, "gpt-5.6-terra", api_key="key_webCanary", daily_requests=1200, mix=AGENT_WRITES)
    yield Stream(_WEB, "gpt-5.6-luna", api_key=web, daily_requests=26000, mix=AGENT_WRITES)
    yield Stream(_WEB, "gpt-5.4-mini-2026-03-17", api_key="key_webCanary", daily_requests=5200)
    yield Stream(_SUPPORT, "gpt-5.4-2026-03-05", api_key=support, daily_requests=7800, mix=AGENT)
    yield Stream(_SUPPORT, "gpt-5.4-2026-03-05", "priority", support, daily_requests=1100, mix=AGENT)
    yield Stream(_SUPPORT, "gpt-5.4-mini-2026-03-17", api_key=support, daily_requests=21000)
    yield Stream(_SUPPORT, "gpt-5.4-nano-2026-03-17", api_key=support, daily_requests=48000)
    yield Stream(_TOOLS, "gpt-5.5-2026-04-23", api_key=tools, daily_requests=1600, mix=AGENT)
    yield Stream(_TOOLS, "gpt-5.6-terra", api_key=tools, daily_requests=3400, mix=AGENT_WRITES)
    yield Stream(_TOOLS, "gpt-5-2025-08-07", api_key=tools, daily_requests=2600)
    yield Stream(_TOOLS, "gpt-5-mini-2025-08-07", "flex", tools, daily_requests=6100, mix=BULK)
    yield Stream(_TOOLS, "gpt-4.1-2025-04-14", api_key=tools, daily_requests=900)
    yield Stream(_LEGACY, "gpt-4o-2024-08-06", api_key="key_legacyMain", daily_requests=2100, load_profile="steady")
    yield Stream(
        _LEGACY, "gpt-4o-mini-2024-07-18", api_key="key_legacyMain", daily_requests=5200, load_profile="steady"
    )


def _acme_batch_streams() -> Iterable[Stream]:
    etl, search = "key_etlMain", "key_searchMain"
    yield Stream(_DATA, "gpt-5.4-mini-2026-03-17", "batch", etl, daily_requests=52000, mix=BULK, load_profile="nightly")
    yield Stream(_DATA, "gpt-5.4-nano-2026-03-17", "batch", etl, daily_requests=90000, mix=BULK, load_profile="nightly")
    yield Stream(_DATA, "gpt-5.6-luna", "flex", etl, daily_requests=30000, mix=BULK, load_profile="nightly")
    yield Stream(_DATA, "gpt-5.4-2026-03-05", "batch", etl, daily_requests=8000, mix=BULK, load_profile="nightly")
    yield Stream(_DATA, "gpt-5.6-terra", api_key=etl, daily_requests=2400, mix=BULK, load_profile="steady")
    yield Stream(_SEARCH, "gpt-5.4-nano-2026-03-17", api_key=search, daily_requests=64000, load_profile="steady")
    yield Stream(_SEARCH, "gpt-5.6-luna", api_key=search, daily_requests=31000, load_profile="steady")


def _acme_media_streams() -> Iterable[Stream]:
    voice, studio = "key_voiceMain", "key_studioMain"
    yield Stream(_VOICE, "gpt-audio-mini-2025-12-15", api_key=voice, daily_requests=4800, mix=VOICE)
    yield Stream(_VOICE, "gpt-5.4-mini-2026-03-17", api_key=voice, daily_requests=5200)
    yield Stream(_VOICE, "tts-1-hd", "", voice, "audio_speeches", 900, (("characters", 320.0),))
    yield Stream(_VOICE, "whisper-1", "", voice, "audio_transcriptions", 1400, (("seconds", 95.0),))
    yield Stream(_STUDIO, "gpt-image-2", api_key=studio, daily_requests=700, mix=PICTURE)
    yield Stream(_STUDIO, "gpt-5.6-sol", api_key=studio, daily_requests=800, mix=AGENT_WRITES)
    yield Stream(_STUDIO, "dall-e-3", "", studio, "images", 240, (("images", 1.0),))


def _acme_other_streams() -> Iterable[Stream]:
    etl, search, support, web = "key_etlMain", "key_searchMain", "key_supportMain", "key_webMain"
    text: Mix = (("uncached_input", 520.0),)
    yield Stream(_SEARCH, "text-embedding-3-large", "", search, "embeddings", 42000, text, "steady")
    yield Stream(_DATA, "text-embedding-3-small", "", etl, "embeddings", 160000, text, "nightly")
    yield Stream(_SUPPORT, "omni-moderation-latest", "", support, "moderations", 30000, (("uncached_input", 180.0),))
    yield Stream(_WEB, "gpt-5.6-sol", "", web, "web_search_calls", 2600, (("web_searches", 1.0),))
    yield Stream(_SUPPORT, "", "", support, "file_search_calls", 5200, (("file_searches", 1.0),))
    yield Stream(_TOOLS, "", "", "", "code_interpreter_sessions", 340, (("sessions", 1.0),))
    yield Stream(_SUPPORT, "", "", "", "vector_stores", 5000, (("bytes", 46e9),), "steady")


def _labs_openai() -> SimAccount:
    sandbox, papers = "proj_sandbox", "proj_papers"
    return SimAccount(
        name="labs-openai",
        provider="openai",
        owner="research",
        key="sk-admin-demo-labs-0000",
        organization="Acme Labs",
        streams=(
            Stream(sandbox, "gpt-5-2025-08-07", api_key="key_sandbox", daily_requests=900),
            Stream(sandbox, "gpt-4.1-2025-04-14", api_key="key_sandbox", daily_requests=700),
            Stream(sandbox, "gpt-4o-mini-2024-07-18", api_key="key_sandbox", daily_requests=2200),
            Stream(
                papers,
                "gpt-5-mini-2025-08-07",
                "batch",
                "key_papers",
                daily_requests=9000,
                mix=BULK,
                load_profile="nightly",
            ),
            Stream(papers, "gpt-5-2025-08-07", api_key="key_papers", daily_requests=1100, mix=BULK),
            Stream(
                papers, "text-embedding-3-small", "", "key_papers", "embeddings", 4000, (("uncached_input", 480.0),)
            ),
        ),
        workspaces={sandbox: "Sandbox", papers: "Paper reader"},
        amount_format="string",
        bill_delay=timedelta(hours=7),
        token_details=False,
    )


def _acme_anthropic() -> SimAccount:
    code, docs, evals, ops = "wrkspc_codeAgents", "wrkspc_docReview", "wrkspc_evals", "wrkspc_opsCopilot"
    return SimAccount(
        name="acme-anthropic",
        provider="anthropic",
        owner="platform",
        key="sk-ant-admin01-demo-acme-0000",
        organization="Acme",
        streams=(
            Stream("", "claude-sonnet-4-6", "standard", "apikey_default", "messages", 1500, CLAUDE),
            Stream("", "claude-haiku-4-5-20251001", "standard", "", "messages", 2600, CLAUDE),
            Stream("", "claude-sonnet-5", "standard", "", "messages", 260, CLAUDE_SEARCH),
            Stream(code, "claude-opus-5", "standard", "apikey_code", "messages", 4200, CLAUDE_LONG_CACHE),
            Stream(code, "claude-sonnet-5", "standard", "apikey_code", "messages", 9000, CLAUDE_LONG_CACHE),
            Stream(code, "claude-opus-5", "priority", "apikey_code", "messages", 600, CLAUDE_LONG_CACHE),
            Stream(code, "claude-haiku-4-5-20251001", "standard", "apikey_code", "messages", 8000, CLAUDE),
            Stream(docs, "claude-sonnet-4-5-20250929", "standard", "apikey_docs", "messages", 2100, CLAUDE),
            Stream(
                docs,
                "claude-sonnet-4-5-20250929",
                api_key="apikey_docs",
                report="messages",
                daily_requests=90,
                mix=CLAUDE_LONG,
                context_window="200k-1M",
            ),
            Stream(docs, "claude-sonnet-5", "batch", "apikey_docs", "messages", 14000, BULK, "nightly"),
            Stream(docs, "claude-haiku-4-5-20251001", "batch", "apikey_docs", "messages", 20000, BULK, "nightly"),
            Stream(evals, "claude-opus-4-6", "batch", "apikey_evals", "messages", 3000, BULK, "nightly"),
            Stream(evals, "claude-opus-5", "batch", "apikey_evals", "messages", 2400, BULK, "nightly"),
            Stream(evals, "claude-sonnet-4-6", "standard", "apikey_evals", "messages", 800, CLAUDE),
            Stream(ops, "claude-sonnet-5", "standard", "apikey_ops", "messages", 1400, CLAUDE, region="us"),
            Stream(ops, "claude-opus-5", "standard", "apikey_ops", "messages", 300, CLAUDE, load_profile="steady"),
        ),
        workspaces={code: "Coding agents", docs: "Document review", evals: "Evaluations", ops: "Ops copilot"},
        archived_workspaces=frozenset({evals}),
        api_keys={"apikey_default": "playground", "apikey_code": "coding-agents", "apikey_docs": "doc-review"},
        discount=0.05,
        bill_delay=timedelta(hours=4),
    )


def _research_anthropic() -> SimAccount:
    lab = "wrkspc_lab"
    return SimAccount(
        name="research-anthropic",
        provider="anthropic",
        owner="research",
        key="sk-ant-admin01-demo-research-0000",
        organization="Acme Research",
        streams=(
            Stream("", "claude-sonnet-5", "standard", "apikey_notebooks", "messages", 420, CLAUDE),
            Stream("", "claude-haiku-4-5-20251001", "standard", "", "messages", 900, CLAUDE_SEARCH),
            Stream(lab, "claude-opus-5", "standard", "apikey_lab", "messages", 380, CLAUDE_LONG_CACHE),
            Stream(lab, "claude-sonnet-4-6", "batch", "apikey_lab", "messages", 2600, BULK, "nightly"),
        ),
        workspaces={lab: "Lab"},
        api_keys={"apikey_notebooks": "notebooks", "apikey_lab": "lab-runner"},
        bill_delay=timedelta(hours=6),
    )


_TEAM = {
    "group_backend": ("Backend", ("Ada Brandt", "Ben Osei", "Chiara Conti", "Dev Anand")),
    "group_frontend": ("Frontend", ("Emil Larsen", "Fatima Noor", "Grace Liu")),
    "group_mobile": ("Mobile", ("Hugo Martin", "Ines Costa")),
    "": ("", ("Jonas Weber",)),
}


def _acme_cursor() -> SimAccount:
    members = [
        Member(f"user_{name.split()[0].lower()}", name, f"{name.split()[0].lower()}@acme.example", group)
        for group, (_, names) in _TEAM.items()
        for name in names
    ]
    bots = [
        Member("user_ciAgent", "ci-agent", "ci-agent@acme.example", "group_backend", "sa_ciAgent"),
        Member("user_docBot", "doc-bot", "doc-bot@acme.example", "", "sa_docBot"),
    ]
    return SimAccount(
        name="acme-cursor",
        provider="cursor",
        owner="engineering",
        key="crsr_" + "0d" * 32,
        organization="Acme",
        streams=tuple(_acme_cursor_streams()),
        workspaces={group: name for group, (name, _) in _TEAM.items() if group},
        members=(*members, *bots),
    )


def _acme_cursor_streams() -> Iterable[Stream]:
    kind = "usage_events"
    for group, size in (("group_backend", 210.0), ("group_frontend", 150.0), ("group_mobile", 80.0), ("", 25.0)):
        yield Stream(group, "claude-5-sonnet", "included", "", kind, size, EDITOR)
        yield Stream(group, "composer-2", "included", "", kind, size * 0.8, EDITOR)
        yield Stream(group, "default", "included", "", kind, size * 0.3, ())
        if group:
            yield Stream(group, "claude-5-sonnet", "on_demand", "", kind, size * 0.4, EDITOR)
            yield Stream(group, "gpt-5.4", "on_demand", "", kind, size * 0.2, EDITOR)
    yield Stream("group_backend", "claude-4.6-sonnet", "on_demand", "sa_ciAgent", kind, 160, EDITOR, "steady")
    yield Stream("", "composer-2", "on_demand", "sa_docBot", kind, 60, EDITOR, "nightly")
