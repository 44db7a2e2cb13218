"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: coarse ? false : "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  };
  const specs = new Map();
  for (const script of document.querySelectorAll("script[data-plot]")) {
    specs.set(script.dataset.plot, JSON.parse(script.textContent));
  }

  /** A copy of a figure with the theme's colours where it names them. */
  function coloured(value, style) {
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object") {
      const pairs = Object.entries(value).map(([key, item]) => [key, coloured(item, style)]);
      return Object.fromEntries(pairs);
    }
    const named = typeof value === "string" && /^var\((--[a-z]+)\)$/.exec(value);
    return named ? style.getPropertyValue(named[1]).trim() : value;
  }

  const visible = (plot) => !plot.closest("details:not([open])"); // folded ones can wait

  function draw(plot, width) {
    const { data, layout } = coloured(specs.get(plot.id), getComputedStyle(root));
    layout.dragmode = coarse ? false : "zoom";
    if (coarse) for (const axis of [layout.xaxis, layout.yaxis]) axis.fixedrange = true;
    if (width) layout.width = width;
    const fresh = !plot.classList.contains("js-plotly-plot");
    Plotly.react(plot, data, layout, config);
    if (fresh && plot.dataset.selects) listen(plot);
  }

  function drawVisible(within, width) {
    for (const plot of within.querySelectorAll(".plot")) {
      if (visible(plot)) draw(plot, width && width(plot));
    }
  }

  /* --- a network of a front ------------------------------------------------------------- */

  const front = (name) => document.querySelector(`fieldset[data-front="${name}"]`);

  function listen(plot) {
    plot.on("plotly_click", (event) => {
      const point = event.points.find((one) => one.curveNumber === 0);
      if (point) select(plot.dataset.selects, point.pointNumber);
    });
  }

  function select(name, index) {
    const radio = front(name).querySelector(`input[value="${index}"]`);
    radio.checked = true;
    const panel = document.getElementById(`${name}-chosen`);
    const { name: title, words, command } = radio.dataset;
    panel.querySelector(".name").textContent = title;
    panel.querySelector(".words").textContent = words;
    panel.querySelector("code").textContent = command;
    panel.querySelector(".how").textContent = command
      ? "Export it:"
      : "No pick of gradevo export is exactly this one.";
    for (const plot of document.querySelectorAll(`[data-selects="${name}"]`)) {
      const { data } = specs.get(plot.id);
      const ring = data[data.length - 1];
      ring.x = [data[0].x[index]];
      ring.y = [data[0].y[index]];
      if (visible(plot)) draw(plot);
    }
  }

  for (const fieldset of document.querySelectorAll("fieldset[data-front]")) {
    fieldset.addEventListener("change", (event) => {
      select(fieldset.dataset.front, Number(event.target.value));
    });
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      } catch {
        getSelection().selectAllChildren(code);
      }
    });
  }

  /* --- theme, folding, paper ------------------------------------------------------------ */

  const button = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  function show() {
    button.textContent = dark() ? "Light theme" : "Dark theme";
    drawVisible(document);
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", () => drawVisible(details));
  }

  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    drawVisible(document, (plot) => (plot.closest(".pair") ? 330 : 680));
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    show();
  });

  show();
})();
