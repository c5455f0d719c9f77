/** Answers in OpenAI's form. Whole, and in chunks. */

interface TokenLogProb {
  readonly token: string;
  readonly logprob: number;
  /** UTF-8 of the token, which may be a part of a character. */
  readonly bytes: readonly number[];
}

export interface ContentLogProb extends TokenLogProb {
  readonly top_logprobs: readonly TokenLogProb[];
}

export type FinishReason = 'stop' | 'length';

/** What an answer has while it is made, in order. */
export type AnswerEvent =
  | {
      readonly kind: 'text';
      readonly index: number;
      readonly text: string;
      readonly logProbs: readonly ContentLogProb[];
    }
  | { readonly kind: 'finish'; readonly index: number; readonly reason: FinishReason };

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Tokens of the prompt whose keys and values were known already. */
  readonly cachedTokens: number;
}

/** What all objects of an answer have. */
export interface AnswerHead {
  readonly id: string;
  /** Seconds. */
  readonly created: number;
  /** As the request names it. */
  readonly model: string;
  readonly fingerprint: string;
  readonly n: number;
  /** Whether log probabilities were asked for. */
  readonly logProbs: boolean;
}

function usageJson({ promptTokens, completionTokens, cachedTokens }: Usage): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}

interface Choice {
  content: string;
  logProbs: ContentLogProb[];
  reason: FinishReason | null;
}

/** Gathers the events of an answer. */
export class WholeAnswer {
  readonly #choices: Choice[];
  readonly #head: AnswerHead;

  constructor(head: AnswerHead) {
    this.#head = head;
    this.#choices = Array.from({ length: head.n }, () => ({ content: '', logProbs: [], reason: null }));
  }

  add(event: AnswerEvent): void {
    const choice = this.#choices[event.index]!;
    if (event.kind === 'finish') choice.reason = event.reason;
    else {
      choice.content += event.text;
      choice.logProbs.push(...event.logProbs);
    }
  }

  json(usage: Usage): object {
    const { id, created, model, fingerprint, logProbs } = this.#head;
    return {
      id,
      object: 'chat.completion',
      created,
      model,
      system_fingerprint: fingerprint,
      choices: this.#choices.map(({ content, logProbs: content_, reason }, index) => ({
        index,
        message: { role: 'assistant', content, refusal: null },
        logprobs: logProbs ? { content: content_, refusal: null } : null,
        finish_reason: reason,
      })),
      usage: usageJson(usage),
    };
  }
}

/** Makes the chunks of a streamed answer. */
export class Chunks {
  readonly #head: AnswerHead;
  readonly #usage: 'none' | 'last' | 'every';

  constructor(head: AnswerHead, usage: 'none' | 'last' | 'every') {
    this.#head = head;
    this.#usage = usage;
  }

  /** The first chunk of each choice. */
  first(usage: Usage): object[] {
    return Array.from({ length: this.#head.n }, (_, index) =>
      this.#chunk([this.#choice(index, { role: 'assistant', content: '' })], usage),
    );
  }

  of(event: AnswerEvent, usage: Usage): object {
    const { index } = event;
    if (event.kind === 'finish') return this.#chunk([this.#choice(index, {}, { reason: event.reason })], usage);
    const logProbs = this.#head.logProbs ? event.logProbs : null;
    return this.#chunk([this.#choice(index, { content: event.text }, { logProbs })], usage);
  }

  /** The chunk after the last choice has ended, if it was asked for. */
  last(usage: Usage): object | undefined {
    return this.#usage === 'none' ? undefined : { ...this.#chunk([], usage), usage: usageJson(usage) };
  }

  #choice(
    index: number,
    delta: object,
    {
      reason = null,
      logProbs = null,
    }: { reason?: FinishReason | null; logProbs?: readonly ContentLogProb[] | null } = {},
  ): object {
    const logprobs = logProbs === null ? null : { content: logProbs, refusal: null };
    return { index, delta, logprobs, finish_reason: reason };
  }

  #chunk(choices: readonly object[], usage: Usage): object {
    const { id, created, model, fingerprint } = this.#head;
    return {
      id,
      object: 'chat.completion.chunk',
      created,
      model,
      system_fingerprint: fingerprint,
      choices,
      ...(this.#usage === 'none' ? {} : { usage: this.#usage === 'every' ? usageJson(usage) : null }),
    };
  }
}
