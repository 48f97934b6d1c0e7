// Draws the charts from the JSON in this page, and offers that for download. Asks nothing of anybody.
(() => {
  "use strict";

  const text = document.getElementById("result").textContent.trim() + "\n";
  const result = JSON.parse(text);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const HEIGHT = 320;
  const HEIGHT_NARROW = 260;
  const NARROW = 560;
  // On paper: what fits between the margins of A4 and of Letter.
  const WIDTH_PRINTED = 660;
  // Beyond these, the markers of events would hide the curves and each other.
  const EVENTS_NUMBERED_MAX = 24;
  const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const whole = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  const short = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
  const missing = (value, shown) => (value === null || value === undefined ? "–" : shown(value));

  const axis = (values, more) => ({
    stroke: colour("dim"),
    font: FONT,
    grid: { stroke: colour("rule"), width: 1 },
    ticks: { stroke: colour("rule"), width: 1, size: 5 },
    values,
    ...more,
  });
  // As wide as the longest label.
  const wide = (chart, labels) => 16 + 7 * Math.max(3, ...(labels || []).map((label) => label.length));
  const upwards = { range: (chart, least, most) => [0, (most || 1) * 1.06] };
  const line = (label, name, value, more) => ({ label, stroke: colour(name), width: 2, value, ...more });

  const options = (width, more) => ({
    width,
    height: width < NARROW ? HEIGHT_NARROW : HEIGHT,
    padding: [16, 28, 0, 0],
    // A finger on the chart scrolls the page, and does not zoom.
    cursor: { y: false, drag: { x: false, y: false } },
    legend: { live: true, markers: { width: 3, dash: (chart, index) => (chart.series[index].dash ? "dashed" : "solid") } },
    ...more,
  });

  // Where workers came and went: a line each, with the number that the table below has.
  const markers = (events, crashes) => (chart) => {
    const { ctx, bbox } = chart;
    const ratio = devicePixelRatio || 1;
    const mark = (seconds, label, dashes) => {
      const at = Math.round(chart.valToPos(seconds, "x", true));
      if (at < bbox.left || at > bbox.left + bbox.width) return;
      ctx.setLineDash(dashes.map((dash) => dash * ratio));
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
      if (label) ctx.fillText(label, at, bbox.top - 3 * ratio);
    };
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("ink");
    ctx.lineWidth = ratio;
    ctx.font = FONT.replace("12px", 11 * ratio + "px");
    ctx.textAlign = "center";
    ctx.textBaseline = "bottom";
    crashes.forEach((crash) => mark(crash.seconds, crashes.length <= EVENTS_NUMBERED_MAX ? "×" : "", [1, 4]));
    events.forEach((event, index) =>
      mark(event.seconds, events.length <= EVENTS_NUMBERED_MAX ? String(index + 1) : "", [4, 3]));
    ctx.restore();
  };

  const charts = {
    "over-time": (place, width) => {
      const { queue_depth: samples, events, crashes } = result;
      const of = (key) => [0, ...samples.map((sample) => sample[key])];
      const seconds = of("at_ms").map((ms) => ms / 1000);
      const points = { show: samples.length <= 40, size: 5 };
      const count = (chart, value) => missing(value, whole);
      const time = (value) => short(value) + " s";
      return new uPlot(options(width, {
        scales: { x: { time: false }, y: upwards },
        axes: [
          axis((chart, splits) => splits.map(time), { space: 70 }),
          axis((chart, splits) => splits.map(whole), { size: wide }),
        ],
        series: [
          { label: "at", value: (chart, value) => missing(value, time) },
          line("buyers waiting", "third", count, { points, fill: colour("soft") }),
          line("in the queue", "second", count, { points, dash: [6, 4] }),
          line("sold", "accent", count, { points, width: 2.5 }),
        ],
        hooks: { draw: [markers(events, crashes)] },
      }), [seconds, of("waiting"), of("messages"), of("sold")], place);
    },

    // As HdrHistogram plots them: the share of slower verdicts falls to a tenth with each step.
    latency: (place, width) => {
      const answered = result.workers.reduce((sum, worker) => sum + worker.verdicts, 0);
      const farthest = Math.log10(Math.max(answered, 10));
      const step = (percentage) => Math.min(farthest, Math.max(0, -Math.log10(1 - percentage / 100)));
      const percentage = (step) => {
        const nines = Math.max(0, Math.round(step) - 2);
        return (100 - 100 / 10 ** step).toFixed(nines) + " %";
      };
      const steps = [Math.log10(2), 1, 2, 3, 4, 5, 6, 7, 8].filter((step) => step <= farthest + 0.01);
      const ms = (value) => short(value) + " ms";
      const points = { show: result.latency_curve.length < 4, size: 5 };
      return new uPlot(options(width, {
        scales: { x: { time: false, range: () => [0, farthest] }, y: upwards },
        axes: [
          axis((chart, splits) => splits.map(percentage), { splits: () => steps }),
          axis((chart, splits) => splits.map(ms), { size: wide }),
        ],
        series: [
          { label: "of the buyers", value: (chart, value) => missing(value, percentage) },
          line("had their verdict within", "accent", (chart, value) => missing(value, ms), { points, fill: colour("soft") }),
        ],
      }), [result.latency_curve.map(([share]) => step(share)), result.latency_curve.map(([, value]) => value)], place);
    },
  };

  const places = [...document.querySelectorAll("[data-chart]")];
  const drawn = new Map();
  const draw = () => {
    for (const place of places) {
      drawn.get(place)?.destroy();
      const width = root.classList.contains("printing") ? WIDTH_PRINTED : place.clientWidth;
      drawn.set(place, charts[place.dataset.chart](place, width));
    }
  };

  draw();
  dark.addEventListener("change", draw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width !== innerWidth) draw();
    width = innerWidth;
  });
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      root.classList.toggle("printing", printing);
      // What is folded away cannot be unfolded on paper.
      for (const details of document.querySelectorAll("main details")) details.open = printing;
      draw();
    });
  }

  const button = document.getElementById("download");
  button.hidden = false;
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "turnstile.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 0);
  });
})();
