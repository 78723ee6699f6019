// The visible texts of a page whose contrast to what is behind them is below level AA of WCAG: 4.5,
// or 3 for large letters. Colours are those that the browser computed; a text or a background that is
// see-through is mixed with what is behind it. Backgrounds that are images count as absent.
() => {
  const still = document.createElement("style"); // colours as they are after all transitions
  still.textContent = "* { transition: none !important; animation: none !important; }";
  document.head.append(still);
  document.querySelectorAll("details").forEach((details) => (details.open = true));

  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pixel = canvas.getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) {
      pixel.clearRect(0, 0, 1, 1);
      pixel.fillStyle = colour;
      pixel.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = ([r, g, b, a], behind) => [r, g, b].map((c, i) => a * c + (1 - a) * behind[i]);
  const luminance = (colour) => {
    const [r, g, b] = colour
      .map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (element) => {
    if (element === null) return rgba("Canvas").slice(0, 3);
    const colour = rgba(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, backgroundOf(element.parentElement));
  };
  // What only screen readers are told is 1 x 1.
  const isSeen = (node, element) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [range.getBoundingClientRect()];
    if (getComputedStyle(element).display !== "contents") boxes.push(element.getBoundingClientRect());
    return boxes.every((box) => box.width > 1 && box.height > 1)
      && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };

  const faults = [];
  let texts = 0;
  let least = 21;
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const node = nodes.currentNode;
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, noscript, :disabled")) continue;
    if (!isSeen(node, element)) continue;
    const style = getComputedStyle(element);
    const isDrawing = element.closest("svg") !== null;
    const hasHalo = isDrawing && style.stroke !== "none" && style.paintOrder.startsWith("stroke");
    const background = hasHalo ? rgba(style.stroke).slice(0, 3) : backgroundOf(element);
    const ink = [...rgba(isDrawing ? style.fill : style.color)];
    for (let e = element; e; e = e.parentElement) ink[3] *= Number(getComputedStyle(e).opacity);
    const [low, high] = [luminance(over(ink, background)), luminance(background)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    texts += 1;
    if (!isLarge) least = Math.min(least, ratio);
    if (ratio < (isLarge ? 3 : 4.5)) {
      const place = [element.tagName.toLowerCase(), ...element.classList].join(".");
      faults.push(`${ratio.toFixed(2)} in ${place}: ${node.data.trim().slice(0, 40)}`);
    }
  }
  return { texts, least, faults };
}
