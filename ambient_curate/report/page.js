"use strict";
const ambient = (() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  // Okabe and Ito's colours, lighter on dark paper
  const PALETTES = {
    light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"],
    dark: ["#4DA6E0", "#F0803C", "#2FC49A", "#DE9CC2", "#EDB62E", "#A3D8F7"],
  };
  const isDark = () => css("--paper") !== "#fff";
  const colors = () => PALETTES[isDark() ? "dark" : "light"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const TICKS = [0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.99];
  const FEW = 5;
  const MOST_NAMED = 14; // beyond, a legend would leave no room: names show where one points
  const byId = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll("#verdict tbody tr")];
  const names = [...new Set(rows.map((row) => row.dataset.dataset))];
  const groups = [...new Set(rows.map((row) => row.dataset.group).filter(Boolean))];
  const chosen = new Set(names);
  const ve = (sigma) => sigma / Math.sqrt(1 - sigma * sigma);
  // Plotly reads tags in texts: names are shown as they are
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text) => plain(text.length > 36 ? `${text.slice(0, 24)}…${text.slice(-10)}` : text);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const make = (tag, text, kind) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const key = (each) => (each.group === null ? each.dataset : `${each.dataset} / ${each.group}`);

  function isShown(each) {
    const group = byId("group").value;
    const fits = group === "*" ? !each.group : each.group === group;
    return chosen.has(each.dataset) && fits && matches(each.dataset);
  }
  function matches(name) {
    return name.toLowerCase().includes(byId("search").value.toLowerCase());
  }
  const style = (name) => {
    const place = names.indexOf(name);
    return { color: colors()[place % 6], dash: DASHES[Math.floor(place / 6) % 4] };
  };
  function layout(more) {
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { color: css("--ink"), size: 12 }, margin: { l: 48, r: 12, t: 8, b: 44 },
      modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--ink") },
      showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
    };
    const result = { ...base, ...more };
    for (const name of ["xaxis", "yaxis"]) result[name] = { ...axis, ...(more[name] || {}) };
    return result;
  }
  const noiseAxis = (title) => ({
    type: "log", title: { text: title || "σ (noise level, log-SNR scale)" },
    tickvals: TICKS.map(ve), ticktext: TICKS.map(String),
  });
  // the mode bar shows while one points at a chart, upright so that it lies beside the legend
  const options = {
    displaylogo: false, responsive: true,
    displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]], // none that needs a network
  };
  function plot(id, traces, more) {
    const isEmpty = traces.length === 0;
    byId(id).hidden = isEmpty;
    byId(id).nextElementSibling.hidden = !isEmpty;
    if (isEmpty) return;
    const named = traces.filter((trace) => trace.showlegend !== false).length;
    Plotly.react(byId(id), traces, layout({ showlegend: named <= MOST_NAMED, ...more }), options);
  }

  function drawCurves(id, value, low, high, least, most, title, range, level) {
    const shown = content.curves.filter(isShown);
    const traces = [];
    for (const each of shown) {
      const x = each.sigma.map(ve), line = style(each.dataset);
      const hover = { text: each.sigma.map((s) => `σ ${s.toFixed(3)}`), hovertemplate: "%{text}: %{y:.3f}<extra>%{fullData.name}</extra>" };
      const name = `${short(key(each))} (${each.n_clean} / ${each.n_corrupt})`;
      if (low && shown.length <= 12) {
        const scale = id === "accuracy" ? (y) => (y === null ? null : (1 + y) / 2) : (y) => y;
        const edge = { x, mode: "lines", line: { width: 0, color: line.color }, hoverinfo: "skip", showlegend: false, legendgroup: key(each) };
        traces.push({ ...edge, y: each[low].map(scale) }, { ...edge, y: each[high].map(scale), fill: "tonexty", fillcolor: line.color + "24" });
      }
      traces.push({ x, y: each[value], name, mode: "lines", line: { ...line, width: 2 }, legendgroup: key(each), ...hover });
      if (least && shown.length <= FEW) {
        traces.push({ x, y: each[least], mode: "lines", line: { color: line.color, width: 1, dash: "dash", shape: "vh" }, name: `${name} at least`, showlegend: false, legendgroup: key(each), ...hover });
        traces.push({ x, y: each[most], mode: "lines", line: { color: line.color, width: 1, dash: "dot", shape: "hv" }, name: `${name} at most`, showlegend: false, legendgroup: key(each), ...hover });
      }
    }
    const shapes = level.map((y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: css("--soft"), width: 1 } }));
    plot(id, traces, { xaxis: noiseAxis(), yaxis: { title: { text: title }, range }, shapes });
  }
  function drawHistogram() {
    const traces = content.histograms.filter(isShown).map((each) => {
      const total = each.counts.reduce((a, b) => a + b, 0) + each.nulls;
      const ends = [`0: ${each.zeros}`, `1: ${each.ones}`, `null: ${each.nulls}`].join(", ");
      return {
        x: each.counts.map((_, i) => (i + 0.5) / each.bins), y: each.counts.map((n) => n / total), customdata: each.counts,
        name: `${short(key(each))} (n ${total}; ${ends})`, mode: "lines", line: { ...style(each.dataset), shape: "hvh" },
        hovertemplate: "σ_min %{x:.2f}: %{customdata} (%{y:.1%})<extra>%{fullData.name}</extra>",
      };
    });
    plot("histogram", traces, { xaxis: { title: { text: "σ_min" }, range: [0, 1] }, yaxis: { title: { text: "share of rows" }, tickformat: ".0%", rangemode: "tozero" } });
  }
  function drawReliability() {
    const shown = content.reliability.filter((e) => chosen.has(e.dataset) && matches(e.dataset));
    const diagonal = { x: [0, 1], y: [0, 1], mode: "lines", line: { color: css("--soft"), width: 1 }, name: "as it should be", hoverinfo: "skip" };
    const traces = shown.length ? [diagonal] : [];
    for (const each of shown) {
      const [x, y, w] = [0, 1, 2].map((i) => each.points.map((point) => point[i]));
      traces.push({ x, y, name: short(each.dataset), mode: "lines+markers", line: { ...style(each.dataset), width: 1 }, marker: { size: w.map((s) => 4 + 14 * Math.sqrt(s)) }, hovertemplate: "predicted %{x:.2f}, is %{y:.2f}<extra>%{fullData.name}</extra>" });
    }
    plot("reliability", traces, { xaxis: { title: { text: "predicted probability of clean" }, range: [0, 1] }, yaxis: { title: { text: "share that is clean" }, range: [0, 1] } });
  }
  function drawTilt() {
    const shown = content.tilts.filter((e) => chosen.has(e.dataset) && matches(e.dataset) && e.usable > 0);
    const labels = { clean: "clean set alone", mixture: "chosen by window", weighted: "by column weight" };
    const traces = shown.length === 0 ? [] : Object.entries(labels).map(([field, name], i) => ({
      type: "bar", x: shown.map((e) => short(e.dataset)), y: shown.map((e) => e[field]), name, marker: { color: colors()[[5, 1, 0][i]] },
    }));
    plot("tilt", traces, { xaxis: { automargin: true }, yaxis: { title: { text: "share of windows" }, rangemode: "tozero" } });
  }
  function drawLocality() {
    const traces = [];
    for (const each of content.locality.filter(isShown)) {
      const x = each.delta.map((_, i) => i), line = style(each.dataset), name = `${short(key(each))} (σ_max ${each.sigma_max.toPrecision(3)})`;
      traces.push({ x, y: each.delta, name, mode: "lines", line });
      traces.push({ x, y: each.delta_lower, mode: "lines", line: { color: line.color, width: 1, dash: "dash" }, showlegend: false, name: `${name} at least` });
      if (each.radius >= 0) traces.push({ x: [each.radius], y: [each.delta[each.radius]], mode: "markers", marker: { color: line.color, size: 9 }, showlegend: false, name });
    }
    const y = content.threshold.delta;
    plot("locality", traces, { xaxis: { title: { text: "radius of the crop (frames)" } }, yaxis: { title: { text: "Δ of crops" }, range: [-0.05, 2.05] }, shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: css("--soft"), width: 1 } }] });
  }

  function drawSpectra() {
    const traces = [];
    for (const each of content.spectra.filter((e) => chosen.has(e.dataset) && matches(e.dataset))) {
      const x = each.frequency, [mean, low, high] = each.power, line = style(each.dataset), group = each.dataset;
      const alpha = each.alpha[0] === null ? "" : `, alpha ${each.alpha[0]} [${each.alpha[1]}, ${each.alpha[2]}]`;
      const edge = { x, mode: "lines", line: { width: 0, color: line.color }, hoverinfo: "skip", showlegend: false, legendgroup: group };
      traces.push({ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: line.color + "24" });
      traces.push({ x, y: mean, mode: "lines", line: { ...line, width: 2 }, name: `${short(group)} (n ${each.episodes}${alpha})`, legendgroup: group });
    }
    plot("spectrum", traces, { xaxis: { type: "log", dtick: 1, title: { text: "frequency (cycles a frame)" } }, yaxis: { type: "log", dtick: 1, title: { text: "power" }, exponentformat: "power" } });
  }

  function paint(strip, values) {
    strip.width = values.length;
    strip.height = 1;
    const pen = strip.getContext("2d");
    values.forEach((value, i) => {
      // one hue, lightness falls evenly: readable without colours; a row without an answer is grey
      pen.fillStyle = value === null ? "#8a8a8a" : `hsl(205 75% ${Math.round(90 - 72 * value)}%)`;
      pen.fillRect(i, 0, 1, 1);
    });
  }
  function card(each) {
    const box = make("div", undefined, "episode");
    const button = make("button");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    const name = make("bdi", `${each.dataset} / ${each.episode_id}`);
    const value = each.sigma_min === null ? each.status : `σ_min ${[0, 1].includes(each.sigma_min) ? each.sigma_min : each.sigma_min.toFixed(3)}`;
    const count = each.strip.length ? `, ${each.windows} windows${each.nulls ? `, ${each.nulls} null` : ""}` : "";
    button.append(name, make("div", `${each.why}: ${value}${count}`, "why"));
    box.append(button);
    if (each.strip.length) {
      const strip = make("canvas", undefined, "strip");
      strip.setAttribute("role", "img");
      strip.setAttribute("aria-label", "sigma_min along the episode");
      paint(strip, each.strip);
      box.append(strip);
    }
    button.addEventListener("click", () => toggle(box, button, each));
    return box;
  }
  function toggle(box, button, each) {
    const open = box.classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
    if (!open) return box.querySelector(".detail").remove();
    const detail = make("div", undefined, "detail");
    box.append(detail);
    for (const command of each.commands) {
      const copy = make("button", `copy: ${command.split(" ")[0]} …`, "copy");
      copy.type = "button";
      copy.title = command;
      copy.addEventListener("click", () => copyText(command, copy));
      detail.append(copy);
    }
    if (each.trace) drawTrace(detail, each);
    if (each.curve.length) drawCurve(detail, each);
    if (!each.trace && !each.curve.length) detail.append(make("p", "No actions: the data was not at hand; no curves: annotate with --store-curves."));
  }
  function copyText(text, button) {
    const area = make("textarea", text);
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy"); // works from a file, unlike the clipboard API
    area.remove();
    button.textContent = done ? "copied" : text;
  }
  function addChart(detail, traces, more) {
    const chart = make("div", undefined, "chart");
    detail.append(chart);
    Plotly.newPlot(chart, traces, layout(more), options);
  }
  function drawTrace(detail, each) {
    const seconds = each.trace.rate_hz, x = each.trace.at.map((at) => (seconds ? at / seconds : at));
    const traces = each.trace.action.map((y, i) => ({ x, y, name: `action ${i}`, mode: "lines", line: { width: 1.3, color: colors()[i % 6], dash: DASHES[Math.floor(i / 6) % 4] } }));
    const more = each.trace.dims > traces.length ? ` (${traces.length} of ${each.trace.dims} shown)` : "";
    addChart(detail, traces, { xaxis: { title: { text: seconds ? "time (s)" : "frame" } }, yaxis: { title: { text: `action, as stored${more}` } } });
  }
  function drawCurve(detail, each) {
    addChart(detail, [{ x: content.grid.map(ve), y: each.curve, mode: "lines", name: "mean p(clean)", line: { color: colors()[0] } }], {
      xaxis: noiseAxis(), yaxis: { title: { text: "p(clean)" }, range: [0, 1] },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0.5 - content.threshold.delta / 4, y1: 0.5 - content.threshold.delta / 4, line: { color: css("--soft"), width: 1 } }],
    });
  }

  function sortBy(column, header) {
    const falling = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const value = (row) => row.children[column].dataset.value;
    const numeric = rows.some((row) => value(row) !== "") && rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what has no number comes last
      const by = numeric ? Number(x) - Number(y) : x.localeCompare(y);
      return falling ? -by : by;
    };
    document.querySelector("#verdict tbody").append(...rows.slice().sort(order));
  }
  function refresh() {
    for (const row of [...rows, ...document.querySelectorAll(".todo li")]) {
      const group = byId("group").value;
      const fits = !row.dataset.group || group === "all groups" || row.dataset.group === group;
      row.hidden = !(chosen.has(row.dataset.dataset) && matches(row.dataset.dataset) && fits);
    }
    const shown = names.filter((name) => chosen.has(name) && matches(name));
    byId("count").textContent = `${shown.length} of ${names.length} datasets`;
    for (const label of byId("chips").children) label.hidden = !matches(label.title);
    for (const box of byId("list")?.children || []) {
      const fits = byId("group").value === "*" || !box.each.group || box.each.group === byId("group").value;
      box.hidden = !(chosen.has(box.each.dataset) && matches(box.each.dataset) && fits);
    }
    if (window.Plotly) drawCharts();
  }
  function drawCharts() {
    const { delta, tv_low, tv_high } = content.threshold;
    const at = { accuracy: [0.5], delta: [delta], tv: [tv_low, tv_high] };
    if (byId("accuracy")) drawCurves("accuracy", "accuracy", "tv_lower_approx", "tv_upper_approx", null, null, "balanced accuracy", [0.44, 1.02], at.accuracy);
    if (byId("delta")) drawCurves("delta", "delta", "delta_lower_approx", "delta_upper_approx", "delta_lower", "delta_upper", "Δ", [-0.05, 2.05], at.delta);
    if (byId("tv")) drawCurves("tv", "tv", "tv_lower_approx", "tv_upper_approx", "tv_lower", "tv_upper", "TV", [-0.02, 1.02], at.tv);
    const panels = { histogram: drawHistogram, reliability: drawReliability, tilt: drawTilt, locality: drawLocality, spectrum: drawSpectra };
    for (const [id, draw] of Object.entries(panels)) if (byId(id)) draw(); // others have no content
  }
  function begin() {
    document.querySelectorAll("#verdict th").forEach((header, column) => {
      header.firstElementChild.addEventListener("click", () => sortBy(column, header));
    });
    for (const name of names) {
      const label = make("label"), box = make("input");
      label.title = name;
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => { box.checked ? chosen.add(name) : chosen.delete(name); refresh(); });
      label.append(box, make("bdi", name));
      byId("chips").append(label);
    }
    for (const group of groups) {
      const option = make("option", group);
      option.value = group;
      byId("group").append(option);
    }
    byId("group").parentElement.hidden = groups.length === 0;
    byId("group").addEventListener("change", refresh);
    byId("search").addEventListener("input", refresh);
    byId("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      drawCharts();
      for (const button of document.querySelectorAll(".episode.open > button")) {
        button.click(); // its charts have the other colours
        button.click();
      }
    });
    for (const each of byId("list") ? content.episodes : []) {
      const box = card(each);
      box.each = each;
      byId("list").append(box);
    }
    refresh();
  }
  begin();
  // the table is there before the charts are
  return { draw: () => requestAnimationFrame(() => setTimeout(drawCharts)) };
})();
