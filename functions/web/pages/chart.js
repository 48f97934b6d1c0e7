// Curves over the last minutes, by uPlot, in the page's own colours: by day and by night.
/* global uPlot */

import { byId, each, fill, h } from "./page.js";

const HEIGHT = 180;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** `curves`: each with its name and the name of its colour. Times are in seconds. */
export const chart = (id, curves, text) => {
  const place = byId(`${id}-chart`);
  let [plot, data] = [null, [[], ...curves.map(() => [])]];
  const axis = () => ({ stroke: colour("--dim"), font: "12px system-ui", grid: { stroke: colour("--rule"), width: 1 }, ticks: { show: false } });
  const draw = () => {
    plot?.destroy();
    plot = new uPlot({
      width: place.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { y: false, drag: { x: false } },
      scales: { y: { range: (_, low, high) => [0, Math.max(10, high * 1.1)] } },
      axes: [{ ...axis(), values: "{HH}:{mm}:{ss}", space: 80, size: 30 }, { ...axis(), size: 56, values: (_, ticks) => ticks.map(text) }],
      series: [{}, ...curves.map(({ name, tone }) => ({ label: name, stroke: colour(tone), width: 2, points: { show: false } }))],
    }, data, place);
  };
  draw();
  new ResizeObserver(() => place.clientWidth !== plot.width && plot.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return (times, lines) => {
    data = [times, ...lines];
    plot.setData(data);
    const make = ({ name, tone }) => {
      const mark = h("i");
      mark.style.borderColor = `var(${tone})`;
      return h("li", {}, mark, `${name} `, h("b", { "data-part": "last" }));
    };
    const now = curves.map((curve, index) => ({ ...curve, last: lines[index].at(-1) ?? 0 }));
    each(byId(`${id}-legend`), now, ({ name }) => name, make, (element, { last }) => fill(element, { last: text(last) }));
  };
};
