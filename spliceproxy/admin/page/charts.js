// A small line of the last ten minutes.

import { makeSvg, setAttribute, setClass } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 24;

export class Sparkline {
  constructor() {
    this.area = makeSvg("path", { class: "spark-area" });
    this.line = makeSvg("path", { class: "spark-line" });
    this.node = makeSvg(
      "svg",
      {
        class: "spark",
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      this.area,
      this.line,
    );
    this.values = [];
  }

  /** Draw these values from 0 to the largest one; `slots` of them fill the width. */
  draw(values, slots = 120) {
    this.values = values.slice(-slots);
    const { line, area } = paths(this.values, slots);
    setAttribute(this.line, "d", line);
    setAttribute(this.area, "d", area);
    setClass(this.node, "flat", !this.values.some(Boolean));
  }
}

/** The paths of the line and of the area under it; nulls are gaps, the newest value is last. */
export function paths(values, slots) {
  const top = Math.max(1e-9, ...values.filter((value) => value != null));
  const step = WIDTH / (slots - 1);
  const left = WIDTH - (values.length - 1) * step;
  let line = "";
  let area = "";
  let began = null;
  const close = (x) => {
    if (began != null) area += `L${x} ${HEIGHT}L${began} ${HEIGHT}Z`;
    began = null;
  };
  values.forEach((value, index) => {
    const x = round(left + index * step);
    if (value == null) {
      close(round(x - step));
      return;
    }
    const point = `${x} ${round(HEIGHT - 1 - (value / top) * (HEIGHT - 3))}`;
    line += `${began == null ? "M" : "L"}${point}`;
    area += `${began == null ? "M" : "L"}${point}`;
    began ??= x;
  });
  close(WIDTH);
  return { line, area };
}

function round(number) {
  return Math.round(number * 10) / 10;
}
