"""The page in a real headless Chromium, at desktop and phone width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from flowgrpo.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--virtual-time-budget=4000",
)  # fmt: skip

LAST_PLACES = ("iteration 40", "iterations 40", "sampling step 4", "step 20", "against member 7")
"""What the right end of a chart is called: of the run, of the plan, of a tree, of a matrix."""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")

# The page sits untouched in an inner frame of the wanted width, since a window cannot be made as narrow as a phone.
HARNESS = """<!doctype html><meta charset="utf-8"><title>harness</title><body style="margin:0">
<iframe id="page" style="border:0;width:%dpx;height:900px" srcdoc="%s"></iframe><pre id="seen"></pre>
<script>
addEventListener("load", async () => {
  const view = document.getElementById("page").contentWindow, page = view.document, root = page.documentElement;
  for (const details of page.querySelectorAll("details")) details.open = true;
  const images = [...page.images];
  for (const image of images) {
    image.scrollIntoView({ behavior: "instant" });
    for (let tries = 0; tries < 50 && !image.complete; tries++) await new Promise((done) => setTimeout(done, 20));
  }
  const readings = [];
  for (const svg of page.querySelectorAll("svg[data-tip]")) {
    svg.scrollIntoView({ behavior: "instant", block: "center" });
    const box = svg.getBoundingClientRect();
    const at = { clientX: box.left + box.width * 0.98, clientY: box.top + box.height / 2, bubbles: true };
    svg.dispatchEvent(new view.PointerEvent("pointermove", at));
    const tip = page.getElementById("tip"), place = tip.getBoundingClientRect();
    const inside = place.left >= 0 && place.right <= root.clientWidth && place.top >= 0;
    const before = tip.textContent;
    svg.dispatchEvent(new view.KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
    readings.push([svg.getAttribute("aria-label"), before, tip.textContent, !tip.hidden && inside]);
    svg.dispatchEvent(new view.PointerEvent("pointerleave"));
  }
  const seen = {
    ready: root.dataset.ready, width: root.clientWidth, scrollWidth: root.scrollWidth, readings,
    sizes: images.map((image) => [image.naturalWidth, image.getBoundingClientRect().width]),
    hidden: page.getElementById("tip").hidden,
    text: Math.min(...[...page.querySelectorAll(".chart svg text")].map((text) => text.getBoundingClientRect().height)),
    cut: [...page.querySelectorAll(".chart svg text")].filter((text) => {
      const own = text.getBoundingClientRect(), box = text.closest("svg").getBoundingClientRect();
      return own.left < box.left - 1 || own.right > box.right + 1;
    }).map((text) => text.textContent),
  };
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


def visit(page: Path, tmp_path: Path, width: int) -> tuple[dict, list[str]]:
    """What the harness saw, and every console message and error of the browser."""
    harness = tmp_path / f"harness-{width}.html"
    harness.write_text(HARNESS % (width, escape(page.read_text(encoding="utf-8"), quote=True)), encoding="utf-8")
    profile = tmp_path / f"profile-{width}"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, 600)},900", "--dump-dom"]
    done = subprocess.run([*command, harness.as_uri()], capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the harness did not finish: {done.stderr[-2000:]}"
    return json.loads(unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [1280, 390])
def test_no_error_no_overflow_and_every_picture_and_value_is_seen(make_run, tmp_path, width):
    run = make_run(40)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["values"]["data"]["prompts"] = "folder/" * 30 + "a-very-long-name-without-any-space.txt"
    (run / "recipe.json").write_text(json.dumps(recipe))
    seen, console = visit(write_report(run), tmp_path, width)
    assert console == []
    assert seen["ready"] == "yes"
    assert seen["width"] in (width, width - 15)
    assert seen["scrollWidth"] <= seen["width"]
    assert len(seen["sizes"]) == 12
    assert all(natural == 64 and drawn >= 80 for natural, drawn in seen["sizes"])
    assert len(seen["readings"]) >= 25
    for name, pointed, stepped, inside in seen["readings"]:
        assert name and inside
        assert pointed.startswith(LAST_PLACES) and stepped != pointed
    assert seen["hidden"] is True
    assert seen["text"] >= 9
    assert seen["cut"] == []


def test_a_script_that_fails_is_noticed(make_run, tmp_path):
    page = write_report(make_run(2))
    page.write_text(page.read_text().replace('data-tip="{', 'data-tip="{{', 1))
    seen, console = visit(page, tmp_path, 390)
    assert seen.get("ready") is None and any("Uncaught" in line or "CSP" in line for line in console)


def test_a_run_of_one_iteration_and_nothing_else_opens_too(make_run, tmp_path):
    run = make_run(1)
    for name in ("eval.jsonl", "events.jsonl", "timing.jsonl", "images/index.json"):
        (run / name).unlink()
    seen, console = visit(write_report(run), tmp_path, 390)
    assert console == [] and seen["ready"] == "yes" and seen["scrollWidth"] <= seen["width"]
