/** One choice of an answer. Its tokens become text, which ends at a stop token, a stop string or the longest answer allowed. */
import type { NewToken } from '@minicpm-finetune/minicpm-v';
import { Detokenizer, type Tokenizer } from '@minicpm-finetune/processor';
import type { AnswerEvent, ContentLogProb } from '../api/answer.js';
import { StopStrings } from '../api/stop-strings.js';
import type { TokenTexts } from './token-text.js';

export interface ChoiceOptions {
  readonly index: number;
  readonly tokenizer: Tokenizer;
  /** Ids of the text that the answer continues. */
  readonly before: readonly number[];
  readonly stop: readonly string[];
  /** Texts of tokens, where log probabilities were asked for. */
  readonly texts: TokenTexts | null;
}

/** JSON has no infinity: the number that OpenAI gives for a token that cannot be. */
const LEAST = -9999;

export class Choice {
  readonly index: number;
  readonly #text: Detokenizer;
  readonly #stops: StopStrings;
  readonly #texts: TokenTexts | null;
  /** Of tokens whose text is held back. */
  #logProbs: ContentLogProb[] = [];
  #tokens = 0;

  constructor({ index, tokenizer, before, stop, texts }: ChoiceOptions) {
    this.index = index;
    this.#text = new Detokenizer(tokenizer, before);
    this.#stops = new StopStrings(stop);
    this.#texts = texts;
  }

  /** Tokens so far, the one that ended it included. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Takes the next token. Returns what is certain now; a `finish` among it is the last. */
  async take(token: NewToken): Promise<AnswerEvent[]> {
    this.#tokens++;
    if (token.end === 'stop') return await this.#finish('stop');
    if (this.#texts !== null) this.#logProbs.push(await describe(token, this.#texts));
    const piece = this.#stops.push(await this.#text.push(token.id));
    if (this.#stops.found) return [...this.#emit(piece, true), { kind: 'finish', index: this.index, reason: 'stop' }];
    if (token.end === 'length') return [...this.#emit(piece), ...(await this.#finish('length'))];
    return this.#emit(piece);
  }

  async #finish(reason: 'stop' | 'length'): Promise<AnswerEvent[]> {
    const rest = this.#stops.push(await this.#text.end());
    const text = this.#stops.found ? rest : rest + this.#stops.end();
    return [
      ...this.#emit(text, true),
      { kind: 'finish', index: this.index, reason: this.#stops.found ? 'stop' : reason },
    ];
  }

  /** A text event, unless there is nothing to tell. Log probabilities wait for the text of their tokens, or (`last`) for nothing more. */
  #emit(text: string, last = false): AnswerEvent[] {
    if (text === '' && !(last && this.#logProbs.length > 0)) return [];
    const logProbs = this.#logProbs;
    this.#logProbs = [];
    return [{ kind: 'text', index: this.index, text, logProbs }];
  }
}

async function describe({ id, logProb = 0, top = [] }: NewToken, texts: TokenTexts): Promise<ContentLogProb> {
  const of = async (token: number, value: number) => ({ ...(await texts.of(token)), logprob: Math.max(LEAST, value) });
  const others = [];
  for (const one of top) others.push(await of(one.id, one.logProb));
  return { ...(await of(id, logProb)), top_logprobs: others };
}
