"""The page's stylesheet: system type, two colour schemes, no fixed widths."""

from __future__ import annotations

STYLE = """
:root {
  --page: #f7f7f5; --surface: #ffffff; --ink: #16181d; --quiet: #5b616e; --line: #e2e3e6; --axis: #b4b7be;
  --link: #1d5fb8; --up: #116b34; --up-bg: #e2f4e8; --down: #a81e1e; --down-bg: #fce8e6; --flat-bg: #ececee;
  --warn: #8a5200; --warn-bg: #fff3dc; --heat: #1c5cab; --heat-minus: #b3261e;
  --s1: #2a78d6; --s2: #eb6834; --s3: #1baf7a; --s4: #4a3aa7; --s5: #eda100; --s6: #e87ba4; --s7: #008300;
  --s8: #8a8f99;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101114; --surface: #191b1f; --ink: #eceef2; --quiet: #a3a9b5; --line: #2c2f36; --axis: #565b66;
    --link: #7fb4ff; --up: #7fdc9f; --up-bg: #15321f; --down: #ff9d95; --down-bg: #3c1917; --flat-bg: #2a2d33;
    --warn: #ffce7a; --warn-bg: #382a10; --heat: #6aabf7; --heat-minus: #ff8a80;
    --s1: #3987e5; --s2: #d95926; --s3: #199e70; --s4: #9085e9; --s5: #c98500; --s6: #d55181; --s7: #3f9f3f;
    --s8: #7c828d;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 78rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: anywhere;
}
h1 { margin: 0 0 1.25rem; font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.015em; }
h1 code { margin-left: .6rem; font-size: .8rem; font-weight: 400; color: var(--quiet); letter-spacing: 0; }
h2 { margin: 0 0 .5rem; font-size: 1.2rem; letter-spacing: -0.01em; }
h3 { margin: 1.5rem 0 .25rem; font-size: 1rem; }
p { margin: 0 0 .5rem; }
a { color: var(--link); }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.eyebrow { margin: 0 0 .15rem; color: var(--quiet); font-size: .8rem; }
.note { max-width: 75ch; color: var(--quiet); font-size: .85rem; }
section { margin-top: 2.75rem; scroll-margin-top: 3.5rem; }

nav {
  position: sticky; top: 0; z-index: 2; display: flex; gap: .25rem 1.1rem; margin: 1.5rem 0 0; padding: .6rem 0;
  overflow-x: auto; background: var(--page); border-bottom: 1px solid var(--line); font-size: .85rem;
  scrollbar-width: none;
}
nav a { color: var(--quiet); text-decoration: none; white-space: nowrap; }
nav a:hover { color: var(--ink); text-decoration: underline; }

.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.tile, .chart, .card, .scroll, details {
  background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
}
.tile { padding: .8rem 1rem; }
.tile p { margin: 0; }
.tile .name { font-weight: 600; }
.tile .name span { font-weight: 400; color: var(--quiet); }
.tile .big { margin: .35rem 0 .3rem; font-size: 1.15rem; }
.tile .levels { font-variant-numeric: tabular-nums; }
.tile .quiet { color: var(--quiet); font-size: .8rem; }
.gain {
  padding: .05em .5em; border-radius: 5px; background: var(--flat-bg); white-space: nowrap;
  font-variant-numeric: tabular-nums;
}
.gain.up { color: var(--up); background: var(--up-bg); font-weight: 600; }
.gain.down { color: var(--down); background: var(--down-bg); font-weight: 600; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: 1.25rem 0 0; }
.facts dt { color: var(--quiet); font-size: .78rem; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.callout {
  margin-top: 1rem; padding: .6rem .9rem; border-left: 3px solid var(--axis); border-radius: 0 6px 6px 0;
  background: var(--flat-bg); font-size: .88rem;
}
.callout p { margin: .1rem 0; }
.callout.warning { border-color: var(--warn); background: var(--warn-bg); }
.callout.warning b { color: var(--warn); }

.charts {
  display: grid; gap: .75rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
}
figure { margin: 0; }
.chart { display: flex; flex-direction: column; padding: .7rem .8rem .5rem; min-width: 0; }
.chart:not(:has(svg)) { align-self: start; padding-bottom: .7rem; }
.chart > figcaption, figure > figcaption { font-size: .88rem; font-weight: 600; }
.chart > figcaption { display: flex; justify-content: space-between; gap: .75rem; }
.chart .now { font-weight: 400; color: var(--quiet); white-space: nowrap; font-variant-numeric: tabular-nums; }
.chart > svg { display: block; width: 100%; height: auto; margin-top: auto; touch-action: pan-y; }
.chart .note { margin: .2rem 0; font-size: .78rem; }
.legend {
  display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .2rem 0; padding: 0; list-style: none;
  color: var(--quiet); font-size: .78rem;
}
.legend li { display: flex; align-items: center; gap: .35rem; }
.swatch { width: .7rem; height: .7rem; border-radius: 3px; background: currentColor; }
.swatch.dashed { height: 0; border-radius: 0; background: none; border-top: 2px dashed var(--quiet); }
.swatch.drawn { height: 0; border-radius: 0; background: none; border-top: 2px solid var(--ink); }
.swatch.pruned { height: 0; border-radius: 0; background: none; border-top: 2px dashed var(--quiet); }
.swatch.ode { height: 0; border-radius: 0; background: none; border-top: 1px solid var(--axis); }
.swatch.drawn, .swatch.pruned, .swatch.ode { width: 1.3rem; }
.swatch.trained { background: var(--heat); }
.swatch.still { background: var(--line); }
.swatch.base { border-radius: 50%; background: var(--quiet); }
.swatch.latest { border-radius: 50%; background: var(--s1); }
.ramp {
  align-self: center; width: 3.5rem; height: .6rem; border-radius: 3px;
  background: linear-gradient(to right, color-mix(in srgb, var(--heat) 10%, var(--surface)), var(--heat));
}
.ramp.minus {
 
  background: linear-gradient(to left, color-mix(in srgb, var(--heat-minus) 10%, var(--surface)), var(--heat-minus));
}
svg text { fill: var(--quiet); font-size: 11px; font-family: inherit; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); }
.axis { stroke: var(--axis); }
.limit { stroke: var(--quiet); stroke-width: 1.5; stroke-dasharray: 5 4; }
.cross { stroke: var(--axis); pointer-events: none; }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.band { fill: currentColor; fill-opacity: .15; }
.dot { fill: currentColor; stroke: var(--surface); stroke-width: 1; }
.bar { fill: currentColor; }
.cell { fill: var(--heat); }
.cell.minus { fill: var(--heat-minus); }
.cell.still { fill: var(--line); }
svg text.on { fill: var(--ink); }
.edge { fill: none; stroke: var(--ink); stroke-width: 1.3; }
.edge.pruned { stroke: var(--quiet); stroke-width: 1.1; stroke-dasharray: 3 2.5; }
.edge.ode { stroke: var(--axis); stroke-width: .8; }
.node { fill: color-mix(in srgb, var(--heat) var(--share, 0%), var(--surface)); stroke: var(--quiet); }
.node.minus { fill: color-mix(in srgb, var(--heat-minus) var(--share, 0%), var(--surface)); }
.node { stroke-width: .6; }
.s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); } .s4 { color: var(--s4); }
.s5 { color: var(--s5); } .s6 { color: var(--s6); } .s7 { color: var(--s7); } .s8 { color: var(--s8); }
.whiskers { display: block; }
.whisker { stroke-width: 2; } .whisker.base { stroke: var(--quiet); } .whisker.latest { stroke: var(--s1); }
.point.base { fill: var(--quiet); } .point.latest { fill: var(--s1); }

.scroll { max-width: 100%; margin: .6rem 0; overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .86rem; overflow-wrap: normal; }
caption {
  position: sticky; left: 0; padding: .5rem .8rem 0; color: var(--quiet); font-size: .78rem; text-align: left;
}
th, td {
  padding: .38rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle;
  font-variant-numeric: tabular-nums; white-space: nowrap;
}
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 500; font-size: .78rem; }
tbody th { font-weight: 500; }
td code, .message { display: inline-block; min-width: 14rem; white-space: normal; overflow-wrap: anywhere; }
.kind { color: var(--quiet); }
.kind.warning {
  padding: .05em .5em; border-radius: 5px; background: var(--warn-bg); color: var(--warn); font-weight: 600;
}

.cards {
  display: grid; gap: .75rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
}
.card { padding: .7rem .8rem; min-width: 0; }
.prompt { display: flex; justify-content: space-between; gap: .75rem; margin: 0 0 .5rem; font-size: .88rem; }
.prompt small { color: var(--quiet); white-space: nowrap; }
.row { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); }
.row figcaption {
  display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 .4rem; margin-top: .15rem;
  color: var(--quiet); font-size: .75rem; font-weight: 400; font-variant-numeric: tabular-nums;
}
.frame img, .hole { display: block; width: 100%; height: auto; border-radius: 5px; background: var(--flat-bg); }
.hole { display: grid; place-items: center; aspect-ratio: 1; color: var(--quiet); font-size: .75rem; }
.pixelated { image-rendering: pixelated; }

details { margin: .5rem 0; }
summary { padding: .55rem .8rem; cursor: pointer; }
summary span { margin-left: .4rem; color: var(--quiet); font-size: .8rem; }
summary small { display: block; margin-left: 1rem; color: var(--quiet); font-size: .8rem; }
details[open] summary small { display: none; }
details .scroll { margin: 0; border-width: 1px 0 0; border-radius: 0; }
th.set { font-weight: 700; }

#tip {
  position: fixed; z-index: 3; max-width: min(20rem, 90vw); padding: .35rem .6rem; border-radius: 6px;
  white-space: pre-line;
  background: var(--ink); color: var(--page); font-size: .78rem; line-height: 1.4; pointer-events: none;
  font-variant-numeric: tabular-nums;
}
#tip[hidden] { display: none; }
@media print { nav, #tip { display: none; } body { padding: 0; } .chart, .card, .tile { break-inside: avoid; } }
"""
