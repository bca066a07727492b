// Elements without markup: text enters the page as text nodes alone, so nothing that a model says can become HTML.

/**
 * An element: `h("button", { class: "quiet", onclick: run, "aria-label": "Run" }, "Run")`. Properties that begin with
 * `on` are listeners, `style` is an object of CSS custom properties, true and false set or leave an attribute.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Put these in place of what is there. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** A token's piece so that a person sees it: spaces and line ends keep a sign, an empty one its id. */
export function visible(piece, id) {
  if (!piece) return `#${id}`;
  return piece.replaceAll("\n", "⏎").replace(/^ | $/g, "\u00b7").replaceAll("\t", "⇥");
}

/** 0.1234 -> "12.3 %"; what rounds to nothing says so. */
export function percent(probability) {
  if (probability === 0) return "0 %";
  if (probability < 0.0005) return "< 0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}

export const rate = (value) => (value ? `${value < 10 ? value.toFixed(1) : Math.round(value)} tokens/s` : "–");

export const seconds = (value) => (value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(2)} s`);

export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
