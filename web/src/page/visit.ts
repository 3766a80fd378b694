/** The pictures of this visit: a strip of thumbnails that restore their picture and request. */

import type { Picture } from "../zimage.js";
import { byId } from "./elements.js";

/** A picture with the fragment that draws it again. */
export interface Kept {
  picture: Picture;
  url: string;
  fragment: string;
}

const list = byId("history", HTMLUListElement);

/** Adds a picture at the front and marks it as shown. */
export function remember(kept: Kept, show: (kept: Kept) => void): void {
  const { prompt, seed } = kept.picture.info;
  const image = Object.assign(new Image(), { src: kept.url, alt: `${prompt}, seed ${seed}`, title: prompt });
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.append(image);
  const press = () => {
    for (const other of list.querySelectorAll("button")) other.ariaPressed = String(other === button);
  };
  button.addEventListener("click", () => {
    press();
    show(kept);
  });
  const item = document.createElement("li");
  item.append(button);
  list.prepend(item);
  press();
  byId("visit", HTMLElement).hidden = false;
}
