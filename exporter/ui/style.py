"""How the landing page looks, in light and dark; every colour of text has a contrast of 4.5 or more."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--back:#fff;--panel:#f6f8fa;--text:#1f2328;--muted:#57606a;--line:#d0d7de;
--link:#0550ae;--bar:#0969da;--soft:#b6d4fb;--good:#1a7f37;--wait:#8a5a00;--bad:#cf222e;
--bad-back:#ffebe9;--wait-back:#fff5d6;--share:#b6d4fb}
@media (prefers-color-scheme:dark){:root{--back:#0d1117;--panel:#161b22;--text:#e6edf3;--muted:#9ea7b3;--line:#3d444d;
--link:#79c0ff;--bar:#58a6ff;--soft:#1c3a61;--good:#56d364;--wait:#e3b341;--bad:#ff7b72;
--bad-back:#2d1517;--wait-back:#272111;--share:#1f4a7a}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1rem;color:var(--text);
background:var(--back);overflow-wrap:anywhere}
a{color:var(--link)}h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 0}h2{font-size:1.15rem;margin:2rem 0 .6rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
.top{color:var(--muted);margin:.2rem 0}.health{font-size:1.2rem;font-weight:600;margin:.8rem 0}
.muted,small{color:var(--muted)}.good{color:var(--good)}.wait{color:var(--wait)}.bad{color:var(--bad)}
.sign{display:inline-block;width:1em}
.problem,.notice{border-left:4px solid var(--bad);background:var(--bad-back);border-radius:4px;padding:.5rem .8rem;
margin:.6rem 0}.notice{border-color:var(--wait);background:var(--wait-back)}
.problem p,.notice p{margin:.15rem 0}.problem .muted{color:var(--text)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.8rem;margin:1rem 0}
.figures div{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.6rem .9rem}
.figures dt{color:var(--muted)}.figures dd{margin:0}
.figures .sum{font-size:1.8rem;line-height:1.3;font-weight:600;font-variant-numeric:tabular-nums}
.chart{display:grid;grid-template-columns:auto 1fr;gap:0 .5rem;margin-top:.8rem}
.chart svg{display:block;width:100%;height:11rem;overflow:visible}
.scale{display:grid;position:relative;font-size:.8rem;color:var(--muted);text-align:right}
.scale span{grid-area:1/1;align-self:end;white-space:nowrap;position:relative}
.dates{grid-column:2;margin-top:.25rem;position:relative;height:1.5rem;font-size:.8rem;color:var(--muted)}
.dates span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.dates .last{right:0;transform:none}
.key span{white-space:nowrap;margin-right:1rem}.key svg{width:.9rem;height:.9rem;vertical-align:-.1rem}
.grid{stroke:var(--line);stroke-width:1}.billed{fill:var(--bar)}.open{fill:url(#hatch);stroke:var(--bar)}
.back{fill:transparent}g:hover>.back{fill:var(--line);fill-opacity:.45}
#hatch rect{fill:var(--soft)}#hatch path{stroke:var(--bar);stroke-width:1.5}
.now{stroke:var(--text);stroke-width:1;stroke-dasharray:3 2;fill:none}
.budgets{list-style:none;padding:0;margin:0}.budgets li{padding:.6rem 0;border-top:1px solid var(--line)}
.pair{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem}.pair>*{min-width:0}
.budgets svg{display:block;width:100%;height:1.1rem;margin:.3rem 0;overflow:visible}
.frame{fill:var(--panel);stroke:var(--line)}.spent{fill:currentColor}.coming{fill:currentColor;fill-opacity:.28}
.pace{stroke:var(--text);stroke-width:2}.pace.edge{stroke:var(--back);stroke-width:6}
.wide{overflow-x:auto;overflow-wrap:normal}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{white-space:nowrap;color:var(--muted);font-weight:600}tbody th{font-weight:400}
.accounts td{white-space:nowrap}.accounts td.state{white-space:normal;min-width:10rem}
.accounts th{min-width:6.5rem;position:sticky;left:0;background:var(--back)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td:last-child,th:last-child{padding-right:0}.narrow{width:auto}.narrow th{white-space:nowrap}
.narrow td:last-child{padding-left:.6rem}
details{margin:.3rem 0}summary{cursor:pointer;padding:.2rem 0}details>table,details>.wide{margin:.3rem 0 .8rem 1.1rem}
.models td,.models th{position:relative}.models .share{width:40%;min-width:5rem}
.models .share svg{position:absolute;inset:.2rem 0 .2rem 0;width:100%;height:calc(100% - .4rem)}
.models .share svg rect{fill:var(--share)}.models .share span{position:relative;padding-right:.4rem}
footer{margin:2rem 0 1rem;border-top:1px solid var(--line);padding-top:.6rem}
@media (max-width:30rem){.models .share{width:22%;min-width:4rem}.figures .sum{font-size:1.5rem}.models td,
.models th{padding-right:.5rem}}
"""

HATCH_PATTERN = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6"/><path d="M0 0V6"/></pattern></defs></svg>\n'
)
"""The fill of estimated cost."""

STATE_SIGNS = {"good": "●", "wait": "▲", "bad": "✖"}


def render_sign(state: str) -> str:
    """Return the coloured sign of a state, to stand before words."""
    return f'<span class="sign {state}" aria-hidden="true">{STATE_SIGNS[state]}</span> '


def render_state(state: str, html: str) -> str:
    """Return a state in colour and words; the words are HTML."""
    return f'<span class="{state}">{render_sign(state)}{html}</span>'
