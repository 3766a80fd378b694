/** Typed access to a page's elements by id, and helpers to make elements. */

export function byId<E extends HTMLElement>(id: string, kind: new () => E): E {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return element;
}

/** Shows a problem in sentences, with buttons for the possible actions. */
export function notify(sentences: string[], actions: [label: string, act: () => void][] = []): void {
  const notice = byId("notice", HTMLDivElement);
  notice.hidden = sentences.length === 0;
  notice.replaceChildren(...sentences.map((sentence) => text("p", sentence)));
  if (actions.length > 0) {
    const row = document.createElement("p");
    row.className = "actions";
    row.append(...actions.map(([label, act]) => button(label, act)));
    notice.append(row);
  }
}

export function text<K extends keyof HTMLElementTagNameMap>(tag: K, content: string): HTMLElementTagNameMap[K] {
  return Object.assign(document.createElement(tag), { textContent: content });
}

export function button(label: string, act: () => void): HTMLButtonElement {
  const element = Object.assign(text("button", label), { type: "button" });
  element.addEventListener("click", act);
  return element as HTMLButtonElement;
}
