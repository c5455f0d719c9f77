/** Questions for one model or two, and their answers. With what is being written. It stays while the page is open. */
import type { ChatModel, ChatSource } from '../../../src/shared/api.js';
import { addressOf, call, RequestError, wordsOf } from '../../client/request.js';
import type { CodeMessage } from './code.js';
import { contentOf, type Picture, type Question } from './content.js';
import { type Sampling, type SamplingName, samplingOf } from './sampling.js';
import { ask, type Usage } from './stream.js';

export interface Answer {
  text: string;
  state: 'writing' | 'done' | 'stopped' | 'failed';
  /** `stop` or `length`. */
  end: string | null;
  error: string | null;
  usage: Usage | null;
  /** Seconds from the request to the first text, and to the end. */
  first: number | null;
  seconds: number | null;
}

export interface Turn {
  readonly question: Question;
  /** What the data answer; null: not of a record. */
  readonly reference: string | null;
  /** One for each model that was asked. */
  answers: (Answer | null)[];
}

/** Milliseconds between two looks at models that are being loaded. */
const PACE = 700;

class Conversation {
  models: readonly ChatModel[] = $state.raw([]);
  /** The models that are asked, by id; the second one is null: no comparison. */
  chosen: [string | null, string | null] = $state([null, null]);
  turns: Turn[] = $state([]);
  system = $state('');
  /** The question that is being written. */
  text = $state('');
  pictures: readonly Picture[] = $state.raw([]);
  reference: string | null = $state(null);
  sampling: Partial<Record<SamplingName, number | null>> = $state({});
  failure = $state('');
  #running: AbortController | undefined = $state.raw();
  #timer: ReturnType<typeof setTimeout> | undefined;

  get isWriting(): boolean {
    return this.#running !== undefined;
  }

  get asked(): ChatModel[] {
    return this.chosen.flatMap((id) => this.models.find((model) => model.id === id) ?? []);
  }

  /** Looks at the models, and again while one is being loaded. That the server does not answer is said by the page's header. */
  async look(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      ({ models: this.models } = await call('GET /api/chat', {}));
    } catch (error) {
      if (!(error instanceof RequestError && error.status === 0)) this.failure = wordsOf(error);
    }
    if (this.models.some(({ state }) => state === 'loading')) this.#timer = setTimeout(() => void this.look(), PACE);
  }

  /** Loads a model for one side, or for both. */
  async load(sides: readonly (0 | 1)[], source: ChatSource, dtype?: ChatModel['dtype']): Promise<void> {
    this.failure = '';
    try {
      const more = dtype ? { dtype: dtype as 'float32' } : {};
      const model = await call('POST /api/chat', { request: { source, ...more } });
      for (const side of sides) this.chosen[side] = model.id;
      await this.look();
    } catch (error) {
      this.failure = wordsOf(error);
    }
  }

  async free(id: string): Promise<void> {
    this.chosen = [this.chosen[0] === id ? null : this.chosen[0], this.chosen[1] === id ? null : this.chosen[1]];
    try {
      await call('POST /api/chat/:id/close', { id });
    } catch (error) {
      this.failure = wordsOf(error);
    }
    await this.look();
  }

  /** Loads a model again whose process has ended, for the sides that ask it. */
  async reload({ id, source, dtype }: ChatModel): Promise<void> {
    const sides = ([0, 1] as const).filter((side) => this.chosen[side] === id);
    await this.free(id);
    await this.load(sides, source, dtype);
  }

  /** Sends what is written to all chosen models at once. */
  async send(): Promise<void> {
    const question = { text: this.text, pictures: this.pictures };
    const { asked } = this;
    if (asked.length === 0 || this.isWriting) return;
    this.turns.push({ question, reference: this.reference, answers: asked.map(() => newAnswer()) });
    [this.text, this.pictures, this.reference, this.failure] = ['', [], null, ''];
    const running = new AbortController();
    this.#running = running;
    const turn = this.turns.at(-1)!;
    try {
      await Promise.all(asked.map((model, side) => this.#answer(model, side, turn, running.signal)));
    } finally {
      this.#running = undefined;
      void this.look();
    }
  }

  stop(): void {
    this.#running?.abort();
  }

  /** Takes the question of a turn back into the field; it and what follows is gone. */
  edit(index: number): void {
    const { question, reference } = this.turns[index]!;
    [this.text, this.pictures, this.reference] = [question.text, question.pictures, reference];
    this.turns = this.turns.slice(0, index);
  }

  /** Asks a turn again. */
  async again(index: number): Promise<void> {
    this.edit(index);
    await this.send();
  }

  clear(): void {
    this.stop();
    this.turns = [];
  }

  async #answer(model: ChatModel, side: number, turn: Turn, signal: AbortSignal): Promise<void> {
    const answer = turn.answers[side]!;
    const begun = performance.now();
    const seconds = (): number => (performance.now() - begun) / 1000;
    const address = addressOf('/api/chat/:id/v1/chat/completions', { id: model.id });
    try {
      const body = { messages: this.messages(side, contentOf), ...samplingOf(this.sampling) };
      await ask(
        address,
        body,
        {
          onText: (text) => {
            answer.first ??= seconds();
            answer.text += text;
          },
          onEnd: (reason) => (answer.end = reason),
          onUsage: (usage) => (answer.usage = usage),
        },
        signal,
      );
      answer.state = 'done';
    } catch (error) {
      answer.state = signal.aborted ? 'stopped' : 'failed';
      if (!signal.aborted) answer.error = wordsOf(error);
    }
    answer.seconds = seconds();
  }

  /** The messages of one side up to the last question, with content as `write` makes it. */
  messages<T>(side: number, write: (question: Question) => T): { role: CodeMessage['role']; content: T | string }[] {
    const system = this.system.trim() === '' ? [] : [{ role: 'system' as const, content: this.system }];
    const last = this.turns.length - 1;
    // A question that this side did not answer is left out: a conversation alternates.
    const turns = this.turns.flatMap(({ question, answers }, index) => {
      const asked = { role: 'user' as const, content: write(question) };
      const said = answers[side]?.text;
      if (index === last) return [asked];
      return said ? [asked, { role: 'assistant' as const, content: said }] : [];
    });
    return [...system, ...turns];
  }

  /** The numbers of the sampling that are given. */
  get given(): Sampling {
    return samplingOf(this.sampling);
  }
}

const newAnswer = (): Answer => ({
  text: '',
  state: 'writing',
  end: null,
  error: null,
  usage: null,
  first: null,
  seconds: null,
});

export const conversation = new Conversation();
