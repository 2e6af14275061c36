"""How a report looks: one style sheet for light, dark, phones and paper, and a little script.

Colours are named once for each scheme, so that a test can measure their contrast.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

__all__ = ["DARK", "LIGHT", "PRINT", "SCRIPT", "policy", "style"]

LIGHT: Final = {
    "paper": "#fbfaf8",
    "card": "#ffffff",
    "edge": "#e2dfd8",
    "code": "#f3f1ec",
    "ink": "#1d232b",
    "quiet": "#59616c",
    "best": "#1d5db4",
    "proved": "#17703a",
    "warning": "#8a4b08",
    "grey": "#636a74",
    "c0": "#1d5db4",
    "c1": "#a34a00",
    "c2": "#17703a",
    "c3": "#8b3a9e",
}
DARK: Final = {
    "paper": "#14171b",
    "card": "#1b1f25",
    "edge": "#333a44",
    "code": "#20252c",
    "ink": "#e8eaed",
    "quiet": "#a7b0bb",
    "best": "#7db2ff",
    "proved": "#6fd193",
    "warning": "#f0b45e",
    "grey": "#99a2ad",
    "c0": "#7db2ff",
    "c1": "#ff9d57",
    "c2": "#6fd193",
    "c3": "#d79bea",
}
PRINT: Final = {**LIGHT, "paper": "#ffffff", "code": "#f7f7f5"}

SCRIPT: Final = """\
for (const pair of document.querySelectorAll(".pair")) {
  const input = pair.querySelector("input");
  const move = () => pair.style.setProperty("--at", input.value + "%");
  input.addEventListener("input", move);
  pair.classList.add("sliding");
  move();
}
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
"""

_SHEET: Final = """\
*,*::before,*::after{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.6;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans",sans-serif;
font-size:1rem;font-variant-numeric:tabular-nums}
main{max-width:54rem;margin:0 auto;padding:3rem 1.5rem 4rem}
h1,h2,h3{line-height:1.2;font-weight:650;letter-spacing:-.015em;text-wrap:balance;
overflow-wrap:anywhere}
h1{font-size:clamp(1.9rem,5vw,2.7rem);margin:.2rem 0 .5rem}
h2{font-size:1.4rem;margin:0 0 .9rem}
p{margin:0 0 .9rem;max-width:68ch;overflow-wrap:break-word}
a{color:var(--best);text-underline-offset:.2em}
.over{margin:0;color:var(--quiet);font-size:.8rem;letter-spacing:.09em;text-transform:uppercase}
.quiet,.lead{color:var(--quiet)}
.quiet{font-size:.925rem}
.lead{font-size:1.05rem;overflow-wrap:anywhere}
.strong{font-weight:600}
.warning{border-left:3px solid var(--warning);padding:.1rem 0 .1rem .9rem;color:var(--warning)}
.verdict{background:var(--card);border:1px solid var(--edge);border-radius:14px;
margin:1.8rem 0 1.4rem;padding:1.6rem 1.8rem 1.5rem;border-top:4px solid var(--grey)}
.verdict.win{border-top-color:var(--proved)}
.verdict.open{border-top-color:var(--warning)}
.badge{display:inline-block;margin:0 0 .7rem;font-size:.8rem;font-weight:650;
padding:.12rem .65rem;border-radius:99px;border:1.5px solid currentColor;color:var(--quiet)}
.win .badge{color:var(--proved)}
.open .badge{color:var(--warning)}
.gain{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem .9rem;margin:0 0 .5rem}
.gain b{font-size:clamp(2.5rem,9vw,3.7rem);font-weight:700;line-height:1;letter-spacing:-.035em}
.win .gain b{color:var(--proved)}
.gain span{color:var(--quiet)}
.glance{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.2rem,1fr));gap:.9rem 1.4rem;
margin:1.2rem 0 0;padding:1.1rem 0 0;border-top:1px solid var(--edge)}
.glance div{min-width:0}
.glance dt{color:var(--quiet);font-size:.8rem}
.glance dd{margin:0;font-weight:600;overflow-wrap:anywhere}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.15rem;margin:0;padding:0;
font-size:.925rem}
section{margin-top:3.2rem;scroll-margin-top:1rem}
ul.bullets{margin:0 0 .9rem;padding-left:1.2rem;max-width:68ch}
ul.bullets li{margin:.35rem 0}
.scroll{overflow-x:auto;margin:0 0 1.1rem;-webkit-overflow-scrolling:touch}
.scroll:focus-visible,a:focus-visible,summary:focus-visible,input:focus-visible{
outline:2px solid var(--best);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.925rem}
.caption{color:var(--quiet);font-size:.925rem;margin:1.3rem 0 .35rem}
th,td{padding:.42rem 1.1rem .42rem 0;text-align:left;vertical-align:baseline;
border-bottom:1px solid var(--edge);white-space:nowrap}
th:last-child,td:last-child{padding-right:.2rem}
thead th{color:var(--quiet);font-weight:550;font-size:.85rem}
tbody th{font-weight:450}
th.right,td.right{text-align:right}
td.wraps{white-space:normal;min-width:15rem}
tr.stands th,tr.stands td{font-weight:650;color:var(--best)}
.facts{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.4rem 1.4rem;
margin:0 0 1.1rem;font-size:.925rem}
.facts dt{color:var(--quiet)}
.facts dd{margin:0;min-width:0;overflow-wrap:anywhere}
pre{margin:0 0 1.1rem;padding:.95rem 1.1rem;background:var(--code);border:1px solid var(--edge);
border-radius:9px;overflow-x:auto;font-size:.86rem;line-height:1.55}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
figure{margin:0 0 1.4rem}
figcaption{color:var(--quiet);font-size:.925rem;max-width:68ch;margin-top:.5rem}
.keys{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.3rem;margin:0 0 .35rem;padding:0;
font-size:.86rem;color:var(--quiet)}
.keys li{display:flex;align-items:center;gap:.35rem}
.keys svg{width:20px;height:14px;flex:none}
.drawn>svg{display:block;width:100%;max-width:46rem;height:auto}
svg text{fill:var(--ink);font-size:12px;font-family:inherit}
svg text.quiet{fill:var(--quiet);font-size:12px}
.rule,.line,.stem{fill:none;stroke:var(--s);stroke-width:1}
.line{stroke-width:2.2;stroke-linejoin:round}
.stem{stroke-width:2;opacity:.55}
.dot{fill:var(--s);stroke:var(--s)}
.ring{fill:var(--paper);stroke:var(--s);stroke-width:1.2}
.band{fill:var(--s);opacity:.17}
.range{fill:var(--quiet);opacity:.08}
.ink{--s:var(--ink)}.grey{--s:var(--grey)}.faint{--s:var(--edge)}.best{--s:var(--best)}
.proved{--s:var(--proved)}.c0{--s:var(--c0)}.c1{--s:var(--c1)}.c2{--s:var(--c2)}.c3{--s:var(--c3)}
.heat td{text-align:right;border:2px solid var(--paper);padding:.36rem .6rem;border-radius:6px;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
.heat th{border-bottom:0}
.heat thead th{text-align:right}
.heat thead th:first-child{text-align:left}
.pair{margin:0 0 1.4rem}
.pair .layers{position:relative}
.pair h3{font-size:.925rem;margin:0 0 .45rem;letter-spacing:0}
.tiles{display:grid;grid-template-columns:repeat(6,1fr);gap:5px;margin:0 0 1rem}
.cell{display:block;position:relative;border-radius:5px;overflow:hidden}
.tiles img{display:block;width:100%;height:auto;background:var(--edge)}
.tiles.pixels img{image-rendering:pixelated}
.slide{display:none}
.sliding h3{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.sliding .tiles{margin:0}
.sliding .after{position:absolute;inset:0;pointer-events:none}
.sliding .after img{background:none;clip-path:inset(0 0 0 var(--at))}
.sliding .after .cell::after{content:"";position:absolute;top:0;bottom:0;left:var(--at);width:2px;
margin-left:-1px;background:#fff;box-shadow:0 0 0 1px rgba(0,0,0,.4)}
.sliding .slide{display:grid;grid-template-columns:auto 1fr auto;gap:.9rem;align-items:center;
margin-top:.8rem;font-size:.86rem;color:var(--quiet)}
input[type=range]{width:100%;height:1.6rem;margin:0;accent-color:var(--best)}
details{border:1px solid var(--edge);border-radius:9px;margin:0 0 1.1rem;background:var(--card)}
summary{cursor:pointer;padding:.65rem 1rem;font-weight:550}
details>.inside{padding:.3rem 1rem .2rem}
footer{margin-top:3.5rem;padding-top:1.1rem;border-top:1px solid var(--edge);color:var(--quiet);
font-size:.86rem}
"""

_PHONE: Final = """\
main{padding:1.6rem 1.1rem 3rem}
section{margin-top:2.5rem}
.verdict{padding:1.2rem 1.1rem 1.1rem}
.facts{grid-template-columns:1fr;gap:.1rem}
.facts dd{margin-bottom:.6rem}
.tiles{grid-template-columns:repeat(4,1fr)}
table{font-size:.86rem}
th,td{padding-right:.75rem}
td.wraps{white-space:nowrap}
svg text,svg text.quiet{font-size:14.5px}
"""

_PAPER: Final = """\
@page{margin:16mm 15mm}
html{font-size:10pt;color-scheme:light}
main{max-width:none;padding:0}
nav,.slide,.sliding .slide{display:none}
section{margin-top:1.5rem}
h2,h3,.caption,.keys{break-after:avoid}
figure,tr,.verdict,pre,.pair,.tiles{break-inside:avoid}
.scroll{overflow:visible}
th,td{padding:.25rem .7rem .25rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
.tiles,.sliding .tiles{grid-template-columns:repeat(12,1fr);margin:0 0 .6rem}
.sliding .after{position:static}
.sliding .after img{clip-path:none}
.sliding .after .cell::after{display:none}
.sliding h3{position:static;width:auto;height:auto;overflow:visible;clip-path:none}
.drawn>svg{max-width:140mm}
details{border:0;background:none}
details>.inside{padding:0}
details::details-content{content-visibility:visible;block-size:auto}
summary{padding:0 0 .4rem;list-style:none}
a{color:inherit;text-decoration:none}
"""


def style() -> str:
    """Return the style sheet."""
    return (
        f":root{{{_variables(LIGHT)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}\n"
        f"{_SHEET}"
        f"@media (max-width:37rem){{\n{_PHONE}}}\n"
        f"@media print{{\n:root{{{_variables(PRINT)}}}\n{_PAPER}}}\n"
    )


def policy() -> str:
    """Return the content security policy: nothing is loaded, and this script alone runs."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())
