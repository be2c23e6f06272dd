// What one page, as it stands in the browser, shows that it should not: a list of sentences, and
// its links and anchors. Runs inside the page; `theme` is only a word for the sentences.
(theme) => {
  const defects = [];
  const words = (element) => (element.textContent || "").replace(/\s+/g, " ").trim().slice(0, 40);
  const named = (element) => {
    const kind = element.getAttribute("class");
    return element.tagName.toLowerCase() + (kind ? "." + kind.trim().split(/\s+/).join(".") : "");
  };

  // --- Width ---------------------------------------------------------------------------------
  const scrolls = (element) => {
    for (let box = element.parentElement; box; box = box.parentElement)
      if (box !== document.body && getComputedStyle(box).overflowX !== "visible") return true;
    return false;
  };
  const root = document.documentElement, room = root.clientWidth;
  const wide = Math.max(root.scrollWidth, document.body.scrollWidth);
  const stuck = [root, document.body].some(
    (box) => /hidden|clip/.test(getComputedStyle(box).overflowX)) ? "cuts off" : "scrolls sideways";
  if (wide > room + 1) {
    const culprits = [...document.body.querySelectorAll("*")].filter(
      (element) => element.getBoundingClientRect().right > room + 1 && !scrolls(element));
    const first = culprits.find(
      (element) => ![...element.children].some((child) => culprits.includes(child)));
    defects.push(`the page ${stuck}: ${wide} px wide in a window of ${room} px` +
                 (first ? `, by <${named(first)}> "${words(first)}"` : ""));
  }

  // --- Pictures ------------------------------------------------------------------------------
  for (const image of document.images) {
    const alt = (image.getAttribute("alt") || "").trim(), source = image.getAttribute("src") || "";
    if (!alt || /^\S+\.(png|jpe?g|gif|svg|webp)$/i.test(alt))  // Sphinx puts the file's name there
      defects.push(`the picture ${source.slice(-60)} has no alternative text`);
  }
  for (const drawing of document.querySelectorAll("svg[role=img]:not([aria-hidden=true])"))
    if (!drawing.querySelector("title") && !drawing.getAttribute("aria-label"))
      defects.push(`a drawing <${named(drawing)}> has no title`);

  // --- Contrast (WCAG 2.1, 1.4.3) ------------------------------------------------------------
  const brush = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
    .getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const rgba = (color) => {
    if (!known.has(color)) {
      brush.clearRect(0, 0, 1, 1);
      brush.fillStyle = color;
      brush.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
      known.set(color, [r, g, b, a / 255]);
    }
    return known.get(color);
  };
  const over = (top, below) => below.slice(0, 3).map(
    (value, channel) => top[3] * top[channel] + (1 - top[3]) * value);
  const luminance = (color) => {
    const [r, g, b] = color.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = () => [...over(rgba(getComputedStyle(root).backgroundColor), over(
    rgba(getComputedStyle(root).colorScheme.includes("dark") ? "#121212" : "#fff"), [0, 0, 0]))];
  // The colour behind an element's text; null where a picture is, which has no one colour.
  const background = (element) => {
    const layers = [];
    for (let box = element; box; box = box.parentElement) {
      const style = getComputedStyle(box), layer = rgba(style.backgroundColor);
      if (style.backgroundImage !== "none" && layer[3] < 1 && box !== root) return null;
      layers.push(layer);
      if (layer[3] >= 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), paper());
  };
  const opacity = (element) => {
    let product = 1;
    for (let box = element; box; box = box.parentElement)
      product *= parseFloat(getComputedStyle(box).opacity);
    return product;
  };
  const seen = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 1 && box.height > 1 &&
      element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const judged = new Set(), pale = new Map();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || judged.has(element)) continue;
    judged.add(element);
    if (/^(SCRIPT|STYLE|NOSCRIPT|TITLE|DESC)$/i.test(element.tagName) || !seen(element) ||
        element.closest(":disabled, [aria-disabled=true]")) continue;
    const behind = background(element);
    if (!behind) continue;
    const style = getComputedStyle(element);
    const ink = [...rgba(element instanceof SVGElement ? style.fill : style.color)];
    ink[3] *= opacity(element);
    const [light, dark] = [luminance(over(ink, behind)), luminance(behind)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5) - 0.005) {
      const look = `contrast ${ratio.toFixed(2)} in ${theme} mode: <${named(element)}>, ` +
        `${style.color} on rgb(${behind.map(Math.round).join(", ")})`;
      if (!pale.has(look)) pale.set(look, `${look}, "${words(element)}"`);
    }
  }
  defects.push(...pale.values());

  // --- Links ---------------------------------------------------------------------------------
  const ids = [...document.querySelectorAll("[id], a[name]")].map(
    (element) => element.id || element.getAttribute("name"));
  const article = document.querySelector("article") || document.body;
  const links = [...document.querySelectorAll("a[href]")].map((link) => ({
    href: link.href, raw: link.getAttribute("href"), text: words(link),
    prose: article.contains(link) && !link.closest("nav, .toctree-wrapper, .prev-next-footer"),
  }));
  return {defects, ids, links};
}
