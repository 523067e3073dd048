// The strip of parts: at most as many tiles as there are parts in its list, each a button.
import { draw, fetchBitmap } from "/static/station-image.js";
import { element, symbol, text, time, verdictOf, verdictText } from "/static/station-words.js";

const THUMBNAILS = 2; // begun at a time, so that many parts a second do not become as many requests

export class Strip {
  constructor(list, onOpen) {
    Object.assign(this, { list, onOpen, tiles: new Map(), loading: 0 });
  }

  show(parts, selected) { // the first one is at the left
    const ids = new Set(parts.map((part) => part.id));
    for (const [id, tile] of this.tiles) if (!ids.has(id)) { tile.item.remove(); this.tiles.delete(id); }
    let place = this.list.firstElementChild;
    for (const part of parts) {
      const tile = this.tiles.get(part.id) ?? this.add(part);
      if (tile.part !== part) this.fill(tile, part);
      if (tile.item === place) place = place.nextElementSibling;
      else this.list.insertBefore(tile.item, place);
      if (part.id === selected) tile.button.setAttribute("aria-current", "true"); else tile.button.removeAttribute("aria-current");
    }
    this.load(parts);
  }

  add(part) {
    const item = element("li"), button = element("button", "tile"), image = element("canvas"), label = element("span", "tile-verdict");
    button.type = "button";
    image.hidden = true;
    button.append(image, label, element("span", "hidden-text"), element("span", "tile-time"));
    item.append(button);
    const tile = { item, button, image, label, part: null };
    button.addEventListener("click", () => this.onOpen(tile.part));
    this.tiles.set(part.id, tile);
    return tile;
  }

  fill(tile, part) {
    const verdict = verdictOf(part), kind = verdict === "normal" ? "ok" : "ng";
    tile.part = part;
    tile.button.classList.toggle("ok", kind === "ok");
    tile.button.classList.toggle("ng", kind === "ng");
    tile.button.title = part.name;
    tile.label.replaceChildren(symbol(kind), verdictText(verdict), ...(part.judgement ? [symbol("person")] : []));
    const [name, clock] = [...tile.button.children].slice(-2);
    name.textContent = part.judgement ? text("recent.judged", { name: part.name }) : part.name;
    clock.textContent = time(part.time);
  }

  load(parts) { // thumbnails of the newest tiles without one
    for (const part of parts) {
      if (this.loading >= THUMBNAILS) return;
      const tile = this.tiles.get(part.id);
      if (!part.has_image || tile.isBegun) continue;
      tile.isBegun = true;
      this.loading += 1;
      fetchBitmap(`/station/parts/${part.id}/thumbnail.png`).then((image) => draw(tile.image, image)).finally(() => { this.loading -= 1; });
    }
  }
}
