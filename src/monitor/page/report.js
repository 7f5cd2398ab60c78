"use strict";
// Draws what the element #data says (src/monitor/report_page.cpp writes it). Everything from there is put in as text or as numbers, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs;
  const several = runs.length > 1;
  const byId = (id) => document.getElementById(id);
  const RUN_COLOURS = ["#2f7de1", "#e8710a", "#12a150", "#a142f4", "#d93a49", "#0b9bab", "#b58b00", "#d6409f"];
  const SERIES_COLOURS = ["#2f7de1", "#e8710a", "#12a150", "#a142f4"];
  const KINDS = {  // colour and name of each kind of event
    resume: ["#2f7de1", "resumed"], start: ["#12a150", "started"], skipped: ["#e8710a", "skipped"], rolled_back: ["#a142f4", "rolled back"],
    alarm: ["#d93a49", "alarm"], save_failed: ["#d93a49", "save failed"], saved: ["#8b95a3", "saved"], moved: ["#0b9bab", "adaptive control"],
    alert_fired: ["#d93a49", "alert"], alert_cleared: ["#12a150", "alert cleared"], stopped_by_alert: ["#d93a49", "stopped by an alert"],
    stopped: ["#8b95a3", "stopped"], complete: ["#12a150", "complete"],
  };
  const colourOf = (run) => RUN_COLOURS[run % RUN_COLOURS.length];

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "style") Object.assign(made.style, value); else if (name in made) made[name] = value; else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }
  const grouped = (number) => Math.round(number).toLocaleString("en-US");
  function short(value) {
    if (value === null || !Number.isFinite(value)) return "not finite";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1e12 || size < 1e-3) return Number(value.toPrecision(3)).toExponential();
    if (size >= 1e4 || (size >= 1e3 && Number.isInteger(value))) return size >= 1e9 ? (value / 1e9).toFixed(2) + " G" : size >= 1e6 ? (value / 1e6).toFixed(2) + " M" : grouped(value);
    return String(Number(value.toPrecision(4)));
  }
  // A legend must leave the curves their room; the cards have whole names. The end of a name, or of a path, tells runs apart more often than the middle.
  const shortened = (name) => name.length <= 24 ? name : name.slice(0, 9) + "\u2026" + name.slice(-14);
  const legendName = (name) => runs.filter((run) => shortened(run.name) === shortened(name)).length > 1 ? name : shortened(name);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const timeOf = (seconds) => (seconds ? new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "");

  // --- head ---------------------------------------------------------------------------------------------------------------------------------
  byId("title").textContent = several ? `${runs.length} runs` : runs[0].name;
  byId("footer").textContent = `Written by pimoe report at ${timeOf(data.time)}.`;
  const cards = byId("runs");
  if (!several) cards.classList.add("single");
  runs.forEach((run, index) => {
    const list = element("dl");
    for (const [title, text] of run.summary) list.append(element("dt", {}, title), element("dd", {}, text));
    const card = element("div", {className: "card"},
      element("h3", {}, element("span", {className: "swatch", style: {background: colourOf(index)}}), run.name,
        element("span", {className: "state " + run.state}, run.state)), list);
    for (const note of run.notes) card.append(element("p", {className: "note"}, note));
    cards.append(card);
  });
  if (data.differences.length > 0) {
    const table = byId("differences").querySelector("table");
    table.append(element("tr", {}, element("th", {}, "key"), ...runs.map((run) => element("th", {}, run.name))));
    for (const [key, ...values] of data.differences) {
      table.append(element("tr", {}, element("td", {className: "key"}, key),
        ...values.map((value, index) => value === null ? element("td", {className: "absent"}, runs[index].config.length ? "absent" : "not known") : element("td", {}, value === "" ? "(empty)" : value))));
    }
    byId("differences").hidden = false;
  }

  // --- curves -------------------------------------------------------------------------------------------------------------------------------
  // [title, unit, [key, label, dashed?]..., options]
  const CHARTS = [
    {title: "Loss", unit: "nats a token", curves: [["loss", "training"], ["validation_loss", "validation"]]},
    {title: "Gradient norm", unit: "before clipping", curves: [["grad_norm", "norm"]], fromZero: true},
    {title: "Learning rate", unit: "", curves: [["learning_rate", "rate"]], fromZero: true},
    {title: "Throughput", unit: "tokens a second", curves: [["tokens_per_second", "tok/s"]], fromZero: true},
    {title: "Time of a step", unit: "ms; parts: rank 0's device", scale: {step_seconds: 1000}, fromZero: true, firstOfSeveral: true,
      curves: [["step_seconds", "whole step"], ["forward_ms", "forward"], ["backward_ms", "backward"], ["gradients_ms", "waiting for gradients"]]},
    {title: "MoE in forward passes", unit: "ms of a step, rank 0's device, all layers", fromZero: true,
      curves: [["moe/experts_ms", "experts"], ["moe/dispatch_ms", "dispatch"], ["moe/combine_ms", "combine"]]},
    {title: "MFU", unit: "share of the devices' peak", curves: [["mfu", "MFU"]], fromZero: true},
    {title: "MaxVio", unit: "(largest - mean) / mean load", curves: [["moe/maxvio", "mean of layers"], ["moe/maxvio_worst", "worst layer"]], fromZero: true},
    {title: "Load between ranks", unit: "MaxVio of rows computed, worst layer", curves: [["moe/maxvio_rank_worst", "worst layer"]], fromZero: true},
    {title: "Balance loss", unit: "1 at balance", curves: [["moe/balance_loss", "mean of layers"], ["moe/balance_loss_worst", "worst layer"]]},
    {title: "Balance losses in the loss", unit: "times their coefficients", curves: [["moe/scaled_loss", "sum of layers"]]},
    {title: "Router z-loss", unit: "unscaled", curves: [["moe/z_loss", "mean of layers"]]},
    {title: "Load entropy", unit: "1 at balance", curves: [["moe/entropy", "mean of layers"], ["moe/entropy_worst", "worst layer"]]},
    {title: "Gate confidence", unit: "mean of a token's largest gate", curves: [["moe/gate_confidence", "mean of layers"]], fromZero: true},
    {title: "Dead experts", unit: "without a slot in the step, all layers", curves: [["moe/dead_experts", "experts"]], fromZero: true},
    {title: "Dropped slots", unit: "share", curves: [["moe/dropped_fraction", "dropped"]], fromZero: true, onlyAbove: 0},
    {title: "Tokens without an expert", unit: "", curves: [["moe/fallback_tokens", "tokens"]], fromZero: true, onlyAbove: 0},
    {title: "Router bias", unit: "loss-free balancing, all layers", curves: [["moe/bias_max", "largest"], ["moe/bias_min", "smallest"]], notAll: 0},
    {title: "Adaptive control", unit: "", curves: [["adaptive/bias_rate", "bias rate"], ["adaptive/switch_loss", "Switch coefficient"], ["adaptive/temperature", "temperature"]]},
    {title: "Loss scale", unit: "float16", curves: [["loss_scale", "scale"]], notAll: 1},
    {title: "Memory", unit: "GB, peak of rank 0", curves: [["memory_bytes", "memory"]], scale: {memory_bytes: 1e-9}, fromZero: true},
  ];
  function pointsOf(flat, factor) {
    const points = new Array(flat.length / 2);
    for (let at = 0; at < points.length; ++at) points[at] = {x: flat[2 * at], y: flat[2 * at + 1] === null ? NaN : flat[2 * at + 1] * factor};
    return points;
  }
  const charts = [];
  let extent = [Infinity, -Infinity];
  for (const run of runs) {
    for (const flat of Object.values(run.curves)) if (flat.length) extent = [Math.min(extent[0], flat[0]), Math.max(extent[1], flat[flat.length - 2])];
  }
  if (extent[0] > extent[1]) extent = [0, 1];
  let range = extent.slice();

  // Events as vertical lines; skipped steps in a row as a band. Drawn behind the curves.
  function marksOf(run) {
    const marks = [];
    for (const [step, last, kind] of run.events) {
      if (kind === "saved" ? !byId("saves").checked : !byId("events").checked) continue;
      if (kind === "start" || kind === "complete" || kind === "stopped") continue;
      marks.push([step, last, kind]);
    }
    return marks;
  }
  const eventLines = {
    id: "eventLines",
    beforeDatasetsDraw(chart) {
      const {ctx, chartArea: area, scales: {x}} = chart;
      if (!area) return;
      ctx.save();
      ctx.beginPath();
      ctx.rect(area.left, area.top, area.right - area.left, area.bottom - area.top);
      ctx.clip();
      for (const run of runs) {
        const drawn = new Set();
        for (const [step, last, kind] of marksOf(run)) {
          const left = Math.round(x.getPixelForValue(step));
          const width = Math.max(1, Math.round(x.getPixelForValue(last)) - left);
          const place = kind + left;
          if (left + width < area.left || left > area.right || drawn.has(place)) continue;
          drawn.add(place);
          ctx.globalAlpha = kind === "saved" ? 0.45 : width > 1 ? 0.3 : 0.75;
          ctx.fillStyle = KINDS[kind] ? KINDS[kind][0] : "#888";
          if (kind === "saved") { for (let y = area.top; y < area.bottom; y += 6) ctx.fillRect(left, y, 1, 3); }
          else ctx.fillRect(left, area.top, width, area.bottom - area.top);
        }
      }
      ctx.restore();
    },
    afterDraw(chart) {  // what is being dragged over
      if (chart.$from === undefined) return;
      const {ctx, chartArea: area} = chart;
      ctx.save();
      ctx.fillStyle = "rgba(127, 127, 127, 0.25)";
      ctx.fillRect(Math.min(chart.$from, chart.$to), area.top, Math.abs(chart.$to - chart.$from), area.bottom - area.top);
      ctx.restore();
    },
  };
  function eventsNear(chart, step) {
    const tolerance = (chart.scales.x.max - chart.scales.x.min) / 150;
    const lines = [];
    runs.forEach((run) => {
      for (const [first, last, kind] of marksOf(run)) {
        if (step < first - tolerance || step > last + tolerance) continue;
        lines.push(`${KINDS[kind] ? KINDS[kind][1] : kind} at ${first === last ? grouped(first) : grouped(first) + " to " + grouped(last)}${several ? " (" + run.name + ")" : ""}`);
        if (lines.length > 4) { lines[4] = "..."; return; }
      }
    });
    return lines;
  }
  function setRange(from, to) {
    range = [from, to];
    byId("reset").hidden = from === extent[0] && to === extent[1];
    for (const chart of charts) {
      chart.options.scales.x.min = from;
      chart.options.scales.x.max = to;
      chart.update("none");
    }
  }
  function draggable(chart, canvas) {
    const place = (event) => event.clientX - canvas.getBoundingClientRect().left;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      chart.$from = chart.$to = place(event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => { if (chart.$from !== undefined) { chart.$to = place(event); chart.draw(); } });
    canvas.addEventListener("pointerup", () => {
      if (chart.$from === undefined) return;
      const ends = [chart.$from, chart.$to].sort((a, b) => a - b);
      chart.$from = undefined;
      if (ends[1] - ends[0] < 6) return chart.draw();
      const steps = ends.map((pixel) => Math.round(chart.scales.x.getValueForPixel(pixel)));
      if (steps[1] > steps[0]) setRange(Math.max(steps[0], extent[0]), Math.min(steps[1], extent[1]));
    });
    canvas.addEventListener("dblclick", () => setRange(...extent));
  }
  // A few wild values at the beginning must not flatten the rest: the axis leaves out less than one in a hundred at each end, and says so.
  function limitsOf(datasets, fromZero) {
    const values = datasets.flatMap((set) => set.data.map((point) => point.y)).filter(Number.isFinite).sort((a, b) => a - b);
    if (values.length < 50) return null;
    const at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];
    const [low, high, middle] = [at(0.005), at(0.99), at(0.5)];
    const least = values[0], most = values[values.length - 1];
    const limits = {};
    const rounded = (value, towards) => { const unit = 10 ** (Math.floor(Math.log10(Math.abs(value) || 1)) - 1); return towards(value / unit) * unit; };
    if (most > high + 3 * (high - low) && high > low) limits.max = rounded(high + 0.1 * (high - low), Math.ceil);
    if (!fromZero && least < low - 3 * (high - low) && high > low) limits.min = rounded(low - 0.1 * (high - low), Math.floor);
    return Object.keys(limits).length ? {...limits, cut: values.filter((value) => value > (limits.max ?? Infinity) || value < (limits.min ?? -Infinity)).length} : null;
  }
  for (const wanted of CHARTS) {
    const datasets = [];
    runs.forEach((run, index) => {
      const present = (several && wanted.firstOfSeveral ? wanted.curves.slice(0, 1) : wanted.curves).filter(([key]) => run.curves[key] && run.curves[key].length);
      present.forEach(([key, label], which) => {
        const points = pointsOf(run.curves[key], (wanted.scale && wanted.scale[key]) || 1);
        if (wanted.onlyAbove !== undefined && !points.some((point) => point.y > wanted.onlyAbove)) return;
        if (wanted.notAll !== undefined && points.every((point) => point.y === wanted.notAll)) return;
        const colour = several ? colourOf(index) : SERIES_COLOURS[which % SERIES_COLOURS.length];
        const few = key === "validation_loss" && points.length <= 60;
        const name = several ? (wanted.curves.length > 1 ? `${legendName(run.name)}: ${label}` : legendName(run.name)) : label;
        const means = run.means[key] && key !== "validation_loss" ? pointsOf(run.means[key], (wanted.scale && wanted.scale[key]) || 1) : null;
        // Of a thinned run the line is the mean, and what it varies by stands pale behind it.
        if (means) datasets.push({label: name, data: points, $pale: true, borderColor: colour + "48", backgroundColor: colour + "48", borderWidth: 1, pointRadius: 0, pointHoverRadius: 0, order: 1});
        datasets.push({label: name, data: means || points, borderColor: colour, backgroundColor: colour,
          borderWidth: which === 0 || !several ? 1.4 : 1.2, borderDash: several && which > 0 ? [6, 3].map((dash) => dash / which) : [],
          pointRadius: points.length === 1 ? 3 : few ? 2 : 0, pointHoverRadius: 3, pointHitRadius: 0, spanGaps: key === "validation_loss", order: -which});
      });
    });
    if (datasets.length === 0) continue;
    const limits = limitsOf(datasets, wanted.fromZero);
    const canvas = element("canvas", {role: "img", "aria-label": wanted.title});
    const remark = element("small", {}, wanted.unit);
    byId("charts").append(element("div", {className: several ? "card chart several" : "card chart"}, element("h3", {}, wanted.title, remark), element("div", {className: "box"}, canvas)));
    const chart = new Chart(canvas, {
      type: "line", data: {datasets}, plugins: [eventLines],
      options: {
        animation: false, parsing: false, normalized: true, responsive: true, maintainAspectRatio: false,
        interaction: {mode: "nearest", axis: "x", intersect: false},
        elements: {line: {tension: 0}},
        scales: {
          x: {type: "linear", min: range[0], max: range[1], ticks: {maxTicksLimit: 7, maxRotation: 0, autoSkipPadding: 10, callback: (value) => Number.isInteger(value) ? short(value) : ""}},
          y: {type: "linear", ticks: {maxTicksLimit: 7, callback: (value) => short(value)}},
        },
        plugins: {
          legend: {display: datasets.filter((set) => !set.$pale).length > 1, position: "bottom", labels: {boxWidth: 18, boxHeight: 1, padding: 8, font: {size: 11}, sort: (a, b) => a.datasetIndex - b.datasetIndex,
            filter: (item, chartData) => !chartData.datasets[item.datasetIndex].$pale},
            // What a name hides is its line and what stands pale behind it.
            onClick: (event, item, legend) => {
              const sets = legend.chart.data.datasets;
              const hides = legend.chart.isDatasetVisible(item.datasetIndex);
              sets.forEach((set, at) => { if (set.label === sets[item.datasetIndex].label) legend.chart.setDatasetVisibility(at, !hides); });
              legend.chart.update("none");
            }},
          tooltip: {
            filter: (item, at, items) => items.findIndex((other) => other.datasetIndex === item.datasetIndex) === at,
            callbacks: {
              title: (items) => items.length ? `step ${grouped(items[0].parsed.x)}` : "",
              label: (item) => ` ${item.dataset.label}${item.dataset.$pale ? ", least or most" : ""}: ${short(item.parsed.y)}`,
              footer: (items) => items.length ? eventsNear(items[0].chart, items[0].parsed.x) : [],
            },
          },
        },
      },
    });
    chart.$wanted = wanted;
    chart.$limits = limits;
    chart.$remark = remark;
    charts.push(chart);
    draggable(chart, canvas);
  }
  function dress() {
    const log = byId("log").checked;
    for (const chart of charts) {
      const values = chart.data.datasets.flatMap((set) => set.data.map((point) => point.y)).filter(Number.isFinite);
      const canLog = values.some((value) => value > 0) && !values.some((value) => value < 0);
      const {x, y} = chart.options.scales;
      y.type = log && canLog ? "logarithmic" : "linear";
      y.min = y.max = undefined;
      y.beginAtZero = !log && Boolean(chart.$wanted.fromZero);
      chart.$remark.textContent = chart.$wanted.unit;
      if (y.type === "linear" && chart.$limits) {
        Object.assign(y, {min: chart.$limits.min, max: chart.$limits.max});
        if (chart.$wanted.fromZero) y.min = 0;
        chart.$remark.textContent += `${chart.$wanted.unit ? "; " : ""}${chart.$limits.cut} points beyond the axis`;
      }
      for (const scale of [x, y]) {
        scale.grid = {color: style("--grid")};
        scale.ticks.color = style("--soft");
      }
      chart.options.plugins.legend.labels.color = style("--text");
      chart.update("none");
    }
  }
  const stretch = Math.max(...runs.map((run) => run.stretch));
  byId("thinned").textContent = charts.length === 0 ? "No step has been recorded yet." : (stretch > 2
    ? `Runs of many steps are thinned: a curve is the mean of each ${grouped(stretch)} steps, and pale behind it their smallest and largest value, each at its step. ` : "Every step is drawn. ") +
    "Drag over a chart to look at some steps, double-click for all. " +
    "Lines: blue resumed, orange skipped, purple rolled back, red alarm or failed save.";

  // --- maps ---------------------------------------------------------------------------------------------------------------------------------
  const tip = byId("tip");
  function showTip(event, text) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 4)) + "px";
    tip.style.top = (event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18) + "px";
  }
  const mix = (a, b, share) => a.map((value, at) => value + (b[at] - value) * share);
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const ramp = (share) => { const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1); const low = Math.min(Math.floor(at), RAMP.length - 2); return mix(RAMP[low], RAMP[low + 1], at - low); };
  const colour3 = (name) => style(name).split(",").map(Number);
  let showMaps = () => {};
  // A canvas with one pixel for each cell, stretched by CSS. colour(row, column) -> [r, g, b] or null; told(row, column) -> text
  function map({title, remark, rows, columns, first, stretch, last, height, colour, told}) {
    const canvas = element("canvas", {width: columns, height: rows, style: {height: height + "px"}, role: "img", "aria-label": title});
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    for (let row = 0, at = 0; row < rows; ++row) {
      for (let column = 0; column < columns; ++column, at += 4) {
        const rgb = colour(row, column);
        if (rgb) image.data.set([rgb[0], rgb[1], rgb[2], 255], at);
      }
    }
    context.putImageData(image, 0, 0);
    const move = (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.min(columns - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * columns)));
      const row = Math.min(rows - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * rows)));
      const begin = first + column * stretch;
      showTip(event, `${stretch === 1 ? "step " + grouped(begin) : "steps " + grouped(begin) + " to " + grouped(Math.min(last, begin + stretch - 1))}\n${told(row, column)}`);
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerdown", move);
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    return element("div", {className: "map"}, element("div", {className: "head"}, element("span", {}, title), element("span", {}, remark)), canvas,
      element("div", {className: "axis"}, element("span", {}, grouped(first)), element("span", {}, "step"), element("span", {}, grouped(last))));
  }
  const MAP_TITLES = {"moe/maxvio": "MaxVio", "moe/dead_experts": "Dead experts", "moe/bias_min": "Smallest bias", "moe/bias_max": "Largest bias", "moe/dropped_fraction": "Dropped slots"};
  function loadColour(byte) {
    if (byte === 255) return null;
    if (byte === 0) return colours.none;
    const octaves = (byte - 1) / 253 * 8 - 4;  // kOctaves of report_page.cpp
    const share = Math.min(1, Math.abs(octaves) / 2);
    return mix(colours.even, octaves < 0 ? colours.low : colours.high, share);
  }
  let colours;
  const readColours = () => { colours = {low: colour3("--low"), even: colour3("--even"), high: colour3("--high"), none: colour3("--none")}; };
  readColours();
  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  function routingOf(run) {
    const parts = [];
    const last = run.last_step;
    const shown = Object.entries(run.maps).filter(([, of]) => of.rows.some((row) => row.some((value) => value !== null && value !== 0)));
    if (shown.length) {
      parts.push(element("p", {className: "hint"}, `Layers over steps: a row for each MoE layer, the first at the top; a cell is the largest value of its steps, dark 0 or the least, yellow the most.`));
      const grid = element("div", {className: "maps"});
      for (const [key, of] of shown) {
        const values = of.rows.flat().filter((value) => value !== null);
        const least = Math.min(0, values.reduce((a, b) => Math.min(a, b), Infinity)), most = values.reduce((a, b) => Math.max(a, b), -Infinity);
        grid.append(map({title: MAP_TITLES[key] || key, remark: `${short(least)} to ${short(most)}`, rows: of.rows.length, columns: of.columns, first: of.first, stretch: of.stretch, last,
          height: Math.max(60, Math.min(240, of.rows.length * 12)),
          colour: (row, column) => { const value = of.rows[row][column]; return value === null ? null : ramp(most > least ? (value - least) / (most - least) : 0); },
          told: (row, column) => `layer ${run.layers[row]}: ${short(of.rows[row][column])}`}));
      }
      parts.push(grid);
    }
    if (run.loads.length) {
      const scale = [-2, -1, 0, 1, 2].map((octaves) => `rgb(${mix(colours.even, octaves < 0 ? colours.low : colours.high, Math.abs(octaves) / 2)})`);
      parts.push(element("h2", {}, several ? `Experts over steps: ${run.name}` : "Experts over steps"), element("div", {className: "legend"},
        element("span", {}, "slots of an expert against the mean of its layer:"), element("span", {}, "1/4 or less", element("i", {style: {width: "120px", background: `linear-gradient(90deg, ${scale.join(",")})`}}), "4 or more"),
        element("span", {}, element("i", {style: {width: "14px", background: `rgb(${colours.none})`}}), "no slot at all"),
        element("span", {}, `each row an expert, the first at the top; a column is ${grouped(run.loads[0].stretch)} step${run.loads[0].stretch > 1 ? "s" : ""}`)));
      const grid = element("div", {className: "maps"});
      run.loads.forEach((load, index) => {
        const cells = bytesOf(load.cells);
        let dead = 0;
        for (let row = 0; row < load.experts; ++row) if (cells[(row + 1) * load.columns - 1] === 0) ++dead;
        grid.append(map({title: `layer ${run.layers[index]}`, remark: dead ? `${dead} of ${load.experts} without a slot at the end` : `${load.experts} experts`, rows: load.experts, columns: load.columns,
          first: load.first, stretch: load.stretch, last, height: Math.max(72, Math.min(384, load.experts * (load.experts <= 16 ? 10 : load.experts <= 64 ? 3 : 2))),
          colour: (row, column) => loadColour(cells[row * load.columns + column]),
          told: (row, column) => {
            const byte = cells[row * load.columns + column];
            const ratio = 2 ** ((byte - 1) / 253 * 8 - 4);
            return `expert ${row}: ` + (byte === 255 ? "nothing recorded" : byte === 0 ? "no slot" : `${byte === 1 ? "at most " : byte === 254 ? "at least " : ""}${ratio.toFixed(2)} times the mean`);
          }}));
      });
      parts.push(grid);
    }
    return parts;
  }
  const routed = runs.filter((run) => run.loads.length || Object.keys(run.maps).length);
  if (routed.length) {
    const place = element("div");
    let chosen = routed[0];
    const show = () => { readColours(); place.replaceChildren(...routingOf(chosen)); };
    const tabs = element("div", {className: "tabs"});
    if (routed.length > 1) {
      for (const run of routed) {
        tabs.append(element("button", {type: "button", "aria-pressed": String(run === chosen), onclick: (event) => {
          chosen = run;
          for (const button of tabs.children) button.setAttribute("aria-pressed", String(button === event.target));
          show();
        }}, run.name));
      }
    }
    byId("routing").append(element("h2", {}, "Routing"), tabs, place);
    show();
    showMaps = show;
  }

  // --- events and configuration ---------------------------------------------------------------------------------------------------------------
  const MOST_ROWS = 1000;
  function listEvents() {
    const wantsSaves = byId("saves").checked;
    const happened = [];
    runs.forEach((run, index) => run.events.forEach((event) => { if (wantsSaves || event[2] !== "saved") happened.push([index, ...event]); }));
    happened.sort((a, b) => a[1] - b[1]);
    const head = element("tr", {}, ...(several ? [element("th", {}, "run")] : []), element("th", {}, "step"), element("th", {}, "what"), element("th", {}, ""), element("th", {}, "time"));
    const rows = happened.slice(0, MOST_ROWS).map(([index, step, last, kind, text, time]) =>
      element("tr", {}, ...(several ? [element("td", {}, runs[index].name)] : []),
        element("td", {className: "time"}, step === last ? grouped(step) : `${grouped(step)} to ${grouped(last)}`),
        element("td", {className: "kind"}, element("span", {className: "dot", style: {background: KINDS[kind] ? KINDS[kind][0] : "#888"}}), KINDS[kind] ? KINDS[kind][1] : kind),
        element("td", {className: "wide"}, text), element("td", {className: "time"}, timeOf(time))));
    if (happened.length > MOST_ROWS) rows.push(element("tr", {}, element("td", {colSpan: several ? 5 : 4}, `${grouped(happened.length - MOST_ROWS)} more are not listed`)));
    byId("happened").querySelector("table").replaceChildren(head, ...rows);
    byId("happened").hidden = happened.length === 0;
  }
  listEvents();
  for (const run of runs) {
    const table = element("table");
    for (const [key, value] of run.config) table.append(element("tr", {}, element("td", {className: "key"}, key), element("td", {className: "wide"}, value)));
    byId("configuration").append(element("details", {}, element("summary", {}, `${run.folder}: ${run.config.length ? run.config.length + " keys" : "not known"}`), table));
  }

  // --- controls -----------------------------------------------------------------------------------------------------------------------------
  byId("log").onchange = dress;
  byId("events").onchange = byId("saves").onchange = () => { charts.forEach((chart) => chart.draw()); listEvents(); };
  byId("reset").onclick = () => setRange(...extent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const redo = () => { dress(); showMaps(); };
  dark.addEventListener("change", redo);
  byId("theme").onclick = () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
    root.dataset.theme = isDark ? "light" : "dark";
    redo();
  };
  dress();
})();
