/** What screen readers are told. Changes of state, never each step. */
import { untrack } from 'svelte';

class Announcements {
  #text = $state('');

  get text(): string {
    return this.#text;
  }

  /** Says a sentence as soon as the reader is quiet. */
  say(sentence: string): void {
    // Whoever speaks does not listen: an effect that says something must not run again because of it.
    this.#text = untrack(() => this.#text) === sentence ? `${sentence}\u00a0` : sentence;
  }
}

export const announcements = new Announcements();
