/**
 * Streaming ids to text. Emits only text that later ids cannot change. A token may end within a character (byte-level
 * vocabularies), so half a UTF-8 sequence waits for its rest; a run of byte tokens (byte fallback) is decoded as a
 * whole, all of it U+FFFD if any of it is wrong, so it waits for its end; white space waits for what follows it, so
 * that the text in all is stripped at both ends, as the reference strips answers.
 *
 * A few ids before the new ones are decoded along with them, because decoders treat the first id of a text in another way.
 */
import { stripEnd, stripStart } from './chat/python.js';
import type { Tokenizer } from './tokenizer.js';

const REPLACEMENT = '\uFFFD';
const BYTE = /^<0x[0-9A-F]{2}>$/;

/** The text of one answer. */
export class Detokenizer {
  readonly #tokenizer: Pick<Tokenizer, 'decode' | 'token'>;
  readonly #ids: number[];
  /** Ids from here on are decoded… */
  #context = 0;
  /** …and those before here are given out already. */
  #done: number;
  #started: boolean;
  #space = '';

  /** @param before ids that the answer continues: its white space at the start then belongs to it */
  constructor(tokenizer: Pick<Tokenizer, 'decode' | 'token'>, before: readonly number[] = []) {
    this.#tokenizer = tokenizer;
    this.#ids = [...before];
    this.#done = before.length;
    this.#started = before.length > 0;
  }

  /** Takes the next id and returns the text that is certain now, often none. One call at a time. */
  async push(id: number): Promise<string> {
    this.#ids.push(id);
    if (BYTE.test(this.#tokenizer.token(id) ?? '')) return '';
    const text = await this.#fresh();
    if (text === '' || text.endsWith(REPLACEMENT)) return '';
    this.#context = this.#done;
    this.#done = this.#ids.length;
    return this.#stripped(text);
  }

  /** The text still held back at the end of the answer: a character that never became whole, as U+FFFD. */
  async end(): Promise<string> {
    return this.#stripped(await this.#fresh());
  }

  /** The text that the ids not yet done add to those before. */
  async #fresh(): Promise<string> {
    const before = await this.#tokenizer.decode(this.#ids.slice(this.#context, this.#done));
    const all = await this.#tokenizer.decode(this.#ids.slice(this.#context));
    return all.slice(before.length);
  }

  /** Holds back white space until something follows, and drops it at the start. */
  #stripped(text: string): string {
    const whole = this.#space + (this.#started ? text : stripStart(text));
    const certain = stripEnd(whole);
    this.#space = whole.slice(certain.length);
    if (certain !== '') this.#started = true;
    return certain;
  }
}
