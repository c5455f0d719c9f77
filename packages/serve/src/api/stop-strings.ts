/** Stop strings in a stream of text. What may become one is held back until it is certain. */

export class StopStrings {
  readonly #stops: readonly string[];
  #held = '';
  #found = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Whether a stop string has come: the text before it is all. */
  get found(): boolean {
    return this.#found;
  }

  /** Takes the next piece of text and returns what is certain to be no part of a stop string. */
  push(piece: string): string {
    if (this.#found) return '';
    const text = this.#held + piece;
    const at = this.#first(text);
    if (at !== -1) {
      this.#found = true;
      this.#held = '';
      return text.slice(0, at);
    }
    const keep = this.#undecided(text);
    this.#held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  /** The text that was held back, at the end of the answer. */
  end(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }

  /** Where the earliest stop string starts; -1: there is none. */
  #first(text: string): number {
    const places = this.#stops.map((stop) => text.indexOf(stop)).filter((at) => at !== -1);
    return places.length === 0 ? -1 : Math.min(...places);
  }

  /** The length of the longest end of the text that a stop string begins with. */
  #undecided(text: string): number {
    const longest = Math.max(0, ...this.#stops.map((stop) => Math.min(stop.length - 1, text.length)));
    for (let length = longest; length > 0; length--) {
      const end = text.slice(text.length - length);
      if (this.#stops.some((stop) => stop.length > length && stop.startsWith(end))) return length;
    }
    return 0;
  }
}
