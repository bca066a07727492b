// Creates elements without markup: text enters the page only as text nodes, so a model's output cannot become HTML.

/**
 * Create an element: `h("button", { class: "quiet", onclick: run, "aria-label": "Run" }, "Run")`. Properties that start
 * with `on` are listeners, `style` is an object of CSS custom properties, true sets an attribute and false omits it.
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

/** Replace an element's children. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** A token's text with visible spaces and line ends; its id if the text is empty. */
export function visible(piece, id) {
  if (!piece) return `#${id}`;
  return piece.replaceAll("\n", "⏎").replace(/^ | $/g, "\u00b7").replaceAll("\t", "⇥");
}

/** 0.1234 -> "12.3 %"; "< 0.1 %" instead of a rounded zero. */
export function percent(probability) {
  if (probability === 0) return "0 %";
  if (probability < 0.0005) return "< 0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}

export const rate = (value) => (value ? `${value < 10 ? value.toFixed(1) : Math.round(value)} tokens/s` : "–");

export const seconds = (value) => (value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(2)} s`);

export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
