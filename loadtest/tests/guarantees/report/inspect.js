// Runs in a report before everything else: notes what goes wrong, looks at the page when it is drawn, and leaves what it saw in
// `inspected`.
(() => {
  const seen = { errors: [], ran: 0 };
  window.hostile = () => { seen.ran += 1; };
  addEventListener("error", (event) => seen.errors.push(String(event.message || "cannot load " + event.target.outerHTML)), true);
  addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));
  document.addEventListener("securitypolicyviolation", (event) => seen.errors.push("forbidden: " + event.blockedURI));
  const error = console.error;
  console.error = (...said) => { seen.errors.push(said.join(" ")); error(...said); };
  let blob = null;
  const create = URL.createObjectURL;
  URL.createObjectURL = (made) => { blob = made; return create.call(URL, made); };

  const canvas = (canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let painted = 0;
    const colours = new Set();
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] === 0) continue;
      painted += 1;
      if (data[at + 3] === 255) colours.add((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]);
    }
    return { chart: canvas.closest("[data-chart]").dataset.chart, painted, colours: [...colours].sort(), width: canvas.clientWidth };
  };
  const canvases = () => [...document.querySelectorAll("canvas")].map(canvas);
  const contrast = () => {
    const of = (text) => text.match(/[\d.]+/g).slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    const light = (text) => of(text).reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const ratio = (element) => {
      const ink = light(getComputedStyle(element).color);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    };
    const texts = document.querySelectorAll("h1, h2, p, small, th, td, dt, dd, caption, summary, .track span, .legend li");
    return Math.min(...[...texts].filter((text) => text.textContent.trim()).map(ratio));
  };

  addEventListener("load", async () => {
    try {
      Object.assign(seen, {
        places: [...document.querySelectorAll("[data-chart]")].map((place) => place.dataset.chart),
        canvases: canvases(),
        bars: [...document.querySelectorAll(".track b")].map((bar) => bar.offsetWidth),
        background: getComputedStyle(document.body).backgroundColor,
        contrast: contrast(),
        headings: [...document.querySelectorAll("h1, h2")].map((heading) => heading.textContent),
        text: document.querySelector("main").textContent,
        elements: [...document.querySelectorAll("main img, main script, main iframe, main a")].map((element) => element.outerHTML),
        width: innerWidth,
        overflow: document.documentElement.scrollWidth - innerWidth,
        requests: performance.getEntriesByType("resource").map((entry) => entry.name),
      });
      document.getElementById("download").click();
      seen.downloaded = blob && await blob.text();
      dispatchEvent(new Event("beforeprint"));
      // Charts are drawn when the script that asked for them has ended.
      await new Promise((resolve) => setTimeout(resolve));
      seen.printed = canvases();
      seen.paper = getComputedStyle(document.body).backgroundColor;
      dispatchEvent(new Event("afterprint"));
    } catch (error) {
      seen.errors.push("the inspection: " + error);
    }
    window.inspected = seen;
  });
})();
