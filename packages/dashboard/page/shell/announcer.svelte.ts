/** What screen readers are told. Changes of state, never each step. */

class Announcements {
  #text = $state('');

  get text(): string {
    return this.#text;
  }

  /** Says a sentence as soon as the reader is quiet. */
  say(sentence: string): void {
    this.#text = this.#text === sentence ? `${sentence}\u00a0` : sentence;
  }
}

export const announcements = new Announcements();
