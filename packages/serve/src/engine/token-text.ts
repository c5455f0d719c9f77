/** Text and bytes of single tokens, for log probabilities. */
import type { Tokenizer } from '@minicpm-finetune/processor';

const BYTE = /^<0x([0-9A-F]{2})>$/;

/** What each character of a byte-level vocabulary stands for: bytes that can be seen stand for themselves, the others follow from U+0100 on. */
const BYTE_OF: ReadonlyMap<string, number> = (() => {
  const seen = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  const all = Array.from({ length: 256 }, (_, byte) => byte);
  const unseen = all.filter((byte) => !seen(byte));
  return new Map([
    ...all.filter(seen).map((byte): [string, number] => [String.fromCodePoint(byte), byte]),
    ...unseen.map((byte, i): [string, number] => [String.fromCodePoint(0x100 + i), byte]),
  ]);
})();

export interface TokenText {
  readonly token: string;
  readonly bytes: readonly number[];
}

interface Anchor {
  readonly ids: readonly number[];
  readonly text: string;
}

export class TokenTexts {
  readonly #tokenizer: Tokenizer;
  readonly #known = new Map<number, TokenText>();
  #anchor: Anchor | undefined;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  async of(id: number): Promise<TokenText> {
    const known = this.#known.get(id);
    if (known !== undefined) return known;
    const found = await this.#make(id);
    this.#known.set(id, found);
    return found;
  }

  async #make(id: number): Promise<TokenText> {
    const raw = this.#tokenizer.token(id) ?? '';
    const byte = BYTE.exec(raw)?.[1];
    if (byte !== undefined) return { token: raw, bytes: [Number.parseInt(byte, 16)] };
    // decoders drop the space of a text's first token: the token is decoded after another one
    const anchor = await this.#anchored();
    const token = (await this.#tokenizer.decode([...anchor.ids, id])).slice(anchor.text.length);
    const bytes = [...raw].map((character) => BYTE_OF.get(character));
    if (token.includes('\uFFFD') && !bytes.includes(undefined)) return { token, bytes: bytes as number[] };
    return { token, bytes: [...Buffer.from(token)] };
  }

  async #anchored(): Promise<Anchor> {
    if (this.#anchor === undefined) {
      const ids = await this.#tokenizer.encode('a');
      this.#anchor = { ids, text: await this.#tokenizer.decode(ids) };
    }
    return this.#anchor;
  }
}
