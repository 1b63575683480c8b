"""How the landing page looks, in light and dark; every colour of text has a contrast of 4.5 or more."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--back:#fff;--panel:#f6f8fa;--text:#1f2328;--muted:#57606a;--line:#d0d7de;
--link:#0550ae;--bar:#0969da;--soft:#b6d4fb;--good:#1a7f37;--wait:#8a5a00;--bad:#cf222e;--over:#82071e;
--bad-back:#fff5f4;--wait-back:#fffbeb;--share:#b6d4fb}
@media (prefers-color-scheme:dark){:root{--back:#0d1117;--panel:#161b22;--text:#e6edf3;--muted:#9ea7b3;--line:#3d444d;
--link:#79c0ff;--bar:#58a6ff;--soft:#1c3a61;--good:#56d364;--wait:#e3b341;--bad:#ff7b72;--over:#ffc1ba;
--bad-back:#1f1315;--wait-back:#1c1810;--share:#1f4a7a}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:0 auto;padding:1rem;color:var(--text);
background:var(--back);overflow-wrap:anywhere}
a{color:var(--link)}:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:2px}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 0}h2{font-size:1.15rem;margin:2rem 0 .6rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.6rem 0 0;padding:0}
.top{color:var(--muted);margin:.2rem 0}.health{font-size:1.35rem;line-height:1.35;font-weight:600;margin:.9rem 0 0}
.muted,small{color:var(--muted)}.good{color:var(--good)}.wait{color:var(--wait)}.bad{color:var(--bad)}
.sign{display:inline-block;width:1em}.change{white-space:nowrap}.under{display:block}
.alerts{list-style:none;margin:0;padding:0;display:grid;gap:.6rem}
.alert,.notice{border:1px solid var(--line);border-left:4px solid var(--bad);background:var(--bad-back);
border-radius:6px;padding:.6rem .9rem}.wait-alert{border-left-color:var(--wait);background:var(--wait-back)}
.notice{margin:.6rem 0;border-left-color:var(--muted);background:var(--panel)}
.alert h3{margin:0}.alert p,.notice p{margin:.15rem 0}.meta{color:var(--muted)}
.alert{display:grid;grid-template-columns:1fr auto;gap:0 1.5rem}.alert>*{grid-column:1;min-width:0}
.alert>.links{grid-column:2;grid-row:1/span 9;text-align:right}.links span{display:block}
.figures{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}
.figures div{flex:1 1 14rem;background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.6rem .9rem}
.figures dt{color:var(--muted)}.figures dd{margin:0}
.figures .sum{font-size:1.7rem;line-height:1.35;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:normal}
.figures .spark{width:100%;height:1.8rem}
.spark{display:block;width:7rem;height:1.6rem;overflow:visible}
.spark path{fill:none;stroke:var(--bar);stroke-width:1.5;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.chart{display:grid;grid-template-columns:auto 1fr;gap:0 .5rem;margin-top:.8rem}
.chart svg{display:block;width:100%;height:11rem;overflow:visible}
.scale{display:grid;position:relative;font-size:.8rem;color:var(--muted);text-align:right}
.scale span{grid-area:1/1;align-self:end;white-space:nowrap;position:relative}
.dates{grid-column:2;margin-top:.25rem;position:relative;height:1.5rem;font-size:.8rem;color:var(--muted)}
.dates span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.dates .last{right:0;transform:none}
.key{margin:.4rem 0}.key span{white-space:nowrap;margin-right:1rem}
.key svg{width:.9rem;height:.9rem;vertical-align:-.1rem;overflow:visible}
.grid{stroke:var(--line);stroke-width:1}.billed{fill:var(--bar)}.open{fill:url(#hatch);stroke:var(--bar)}
.back{fill:transparent}g:hover>.back{fill:var(--line);fill-opacity:.45}
#hatch rect{fill:var(--soft)}#hatch path{stroke:var(--bar);stroke-width:1.5}
.now{stroke:var(--text);stroke-width:1;stroke-dasharray:3 2;fill:none}
.budgets{list-style:none;padding:0;margin:0}.budgets li{padding:.6rem 0;border-top:1px solid var(--line)}
.pair{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem}.pair>*{min-width:0}
.budgets svg{display:block;width:100%;height:1.1rem;margin:.55rem 0 .4rem;overflow:visible}
.frame{fill:var(--panel);stroke:var(--line)}.spent{fill:currentColor}.coming{fill:currentColor;fill-opacity:.28}
.over{fill:var(--over)}
.pace{stroke:var(--text);stroke-width:2;stroke-dasharray:3 2}.limit{stroke:var(--text);stroke-width:3}
.pace.edge,.limit.edge{stroke:var(--back);stroke-width:7;stroke-dasharray:none}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--muted);font-weight:600;overflow-wrap:normal}tbody th{font-weight:400}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}
td:last-child,th:last-child{padding-right:0}
.accounts tbody th{min-width:11rem}
.accounts .name{font-weight:600}.accounts .state{min-width:8rem}.when{min-width:7.5rem}
.trend{width:8rem}
.narrow{width:auto}.narrow td,.narrow th{padding-right:1.5rem}
details{margin:.3rem 0}summary{cursor:pointer;padding:.2rem 0}details>table{margin:.3rem 0 .8rem 1.1rem}
.models .share{width:24%}.meter{display:block;position:relative;padding:0 .4rem}
.meter svg{position:absolute;inset:0;width:100%;height:100%}.meter rect{fill:var(--share)}.meter span{position:relative}
footer{margin:2rem 0 1rem;border-top:1px solid var(--line);padding-top:.6rem}
@media (max-width:76rem){.accounts{font-size:.9rem}.accounts td,.accounts th{padding-right:.6rem}
.accounts .state,.when{min-width:6rem}.accounts tbody th{min-width:8rem}.trend{width:6rem}
.accounts .spark{width:5.5rem}}
@media (max-width:62rem){.accounts{font-size:1rem}
.cards,.cards tbody,.cards th,.cards td{display:block}.cards.narrow,.cards tbody th,.cards .state{width:auto}
.cards thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.cards thead tr,.cards thead th{display:block}
.cards tbody tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.3rem 1rem;
padding:.6rem 0;border-bottom:1px solid var(--line)}
.cards tbody th{grid-column:1/-1}.cards td,.cards tbody th{border:0;padding:0;text-align:left;width:auto}
.cards td::before{content:attr(data-label);display:block;font-size:.8rem;color:var(--muted)}
.models .share,.trend{width:auto}.accounts tbody th,.accounts .state,.when{min-width:0}
.cards .when{order:-1}.cards .state{order:-2}.cards tbody th{order:-3}
.cards td.trend{grid-column:1/-1}
.accounts .spark{width:100%}details>table{margin-left:0}
.alert{display:block}.alert>.links{text-align:left}.links span{display:inline-block;margin-right:1.2rem}}
@media (max-width:30rem){.figures{gap:.5rem}
.figures div{flex-basis:100%;display:grid;grid-template-columns:1fr auto;column-gap:1rem;align-items:baseline;
padding:.45rem .8rem}
.figures .sum{font-size:1.35rem}.figures dd:last-child{grid-column:1/-1}.figures .spark{height:1.4rem}}
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
