// The readout of a chart: the values nearest to the pointer. The page is complete without it.
for (const figure of document.querySelectorAll("figure.chart")) {
  const lines = JSON.parse(figure.dataset.lines);
  const [first, last] = figure.dataset.x.split(" ").map(Number);
  const area = figure.querySelector(".area");
  const cross = figure.querySelector(".cross");
  const output = figure.querySelector("output");
  const nearest = (xs, at) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < at) low = middle; else high = middle;
    }
    return at - xs[low] < xs[high] - at ? low : high;
  };
  const number = (y) => {
    if (y === null) return "not finite";
    const size = Math.abs(y);
    if (size !== 0 && size < 0.01) return y.toExponential(2).replace(/\.?0*e/, "e");
    return y.toLocaleString("en", { maximumFractionDigits: size < 100 ? 3 : 0 });
  };
  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const at = first + ((event.clientX - box.left) / box.width) * (last - first);
    const step = lines[0].x[nearest(lines[0].x, at)];
    const parts = lines.map((line) => `${line.name} ${number(line.y[nearest(line.x, step)])}`);
    output.textContent = `${figure.dataset.unit} ${step.toLocaleString("en")}: ${parts.join(", ")}`;
    cross.style.left = `${((step - first) / Math.max(last - first, 1)) * 100}%`;
    cross.hidden = false;
  });
  area.addEventListener("pointerleave", () => {
    output.textContent = "";
    cross.hidden = true;
  });
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
