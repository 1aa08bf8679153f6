"""The page's one script: values of the charts under the pointer, or under the arrow keys."""

from __future__ import annotations

SCRIPT = """
(() => {
  "use strict";
  const tip = document.getElementById("tip");
  const nearest = (places, at) =>
    places.reduce((best, place, index) => Math.abs(place - at) < Math.abs(places[best] - at) ? index : best, 0);

  for (const svg of document.querySelectorAll("svg[data-tip]")) {
    const data = JSON.parse(svg.dataset.tip), box = svg.viewBox.baseVal, cross = svg.querySelector(".cross");
    const name = svg.querySelector("title");
    svg.setAttribute("aria-label", name.textContent);  // the browser's own tooltip would cover ours
    name.remove();
    let column = data.columns.length - 1, row = 0;

    const hide = () => { tip.hidden = true; cross.setAttribute("visibility", "hidden"); };
    const show = () => {
      const head = data.columns[column] + (data.rows.length ? ", " + data.rows[row] : "");
      tip.textContent = head + "\\n" + data.texts[row][column];
      tip.hidden = false;
      const x = data.xs[column];
      cross.setAttribute("x1", x);
      cross.setAttribute("x2", x);
      cross.setAttribute("visibility", "visible");
      const area = svg.getBoundingClientRect(), scale = area.width / box.width;
      const left = area.left + x * scale + 12, width = tip.offsetWidth, room = document.documentElement.clientWidth;
      const y = data.ys.length ? area.top + data.ys[row] * scale : area.top + 24 * scale;
      const flipped = left + width > room - 4 ? left - width - 24 : left;
      tip.style.left = Math.max(4, Math.min(flipped, room - width - 4)) + "px";
      tip.style.top = Math.max(4, Math.min(y, window.innerHeight - tip.offsetHeight - 4)) + "px";
    };
    const follow = (event) => {
      const area = svg.getBoundingClientRect();
      column = nearest(data.xs, (event.clientX - area.left) * box.width / area.width);
      if (data.ys.length) row = nearest(data.ys, (event.clientY - area.top) * box.height / area.height);
      show();
    };
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = (event) => {
      if (event.key === "Escape") return hide();
      const move = moves[event.key];
      if (!move || (move[1] && !data.ys.length)) return;
      event.preventDefault();
      column = Math.max(0, Math.min(data.columns.length - 1, column + move[0]));
      row = Math.max(0, Math.min(Math.max(0, data.ys.length - 1), row + move[1]));
      show();
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("keydown", step);
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(); });
    svg.addEventListener("blur", hide);
  }
  document.documentElement.dataset.ready = "yes";
})();
"""
