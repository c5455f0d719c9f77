/** What the server counts and measures, as text for Prometheus. */

const SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120] as const;

class Histogram {
  readonly #buckets = SECONDS.map(() => 0);
  #count = 0;
  #sum = 0;

  observe(value: number): void {
    this.#count++;
    this.#sum += value;
    SECONDS.forEach((limit, i) => {
      if (value <= limit) this.#buckets[i]!++;
    });
  }

  lines(name: string): string[] {
    return [
      ...SECONDS.map((limit, i) => `${name}_bucket{le="${limit}"} ${this.#buckets[i]}`),
      `${name}_bucket{le="+Inf"} ${this.#count}`,
      `${name}_sum ${this.#sum}`,
      `${name}_count ${this.#count}`,
    ];
  }
}

/** What is so at the moment. */
export interface Gauges {
  readonly running: number;
  readonly waiting: number;
  readonly adapters: number;
}

const PREFIX = 'minicpm_serve_';

export class Metrics {
  /** Answers that ended, by how: stop, length, abort, timeout, error, refused. */
  readonly #requests = new Map<string, number>();
  readonly #firstToken = new Histogram();
  readonly #perToken = new Histogram();
  promptTokens = 0;
  cachedTokens = 0;
  generationTokens = 0;

  count(end: string): void {
    this.#requests.set(end, (this.#requests.get(end) ?? 0) + 1);
  }

  /** @param seconds from the request's arrival to the first token */
  firstToken(seconds: number): void {
    this.#firstToken.observe(seconds);
  }

  /** @param seconds between two tokens of an answer, on average */
  perToken(seconds: number): void {
    this.#perToken.observe(seconds);
  }

  text({ running, waiting, adapters }: Gauges): string {
    const metric = (name: string, type: string, help: string, lines: (full: string) => readonly string[]): string[] => [
      `# HELP ${PREFIX}${name} ${help}`,
      `# TYPE ${PREFIX}${name} ${type}`,
      ...lines(PREFIX + name),
    ];
    const one = (name: string, type: string, help: string, value: number): string[] =>
      metric(name, type, help, (full) => [`${full} ${value}`]);
    const ends = [...this.#requests].map(([end, count]): [string, number] => [end, count]);
    return `${[
      ...one('requests_running', 'gauge', 'Requests that are being answered.', running),
      ...one('requests_waiting', 'gauge', 'Requests that wait for a place.', waiting),
      ...one('adapters', 'gauge', 'Adapters in memory.', adapters),
      ...metric('requests_total', 'counter', 'Requests that ended, by how.', (full) =>
        ends.map(([end, count]) => `${full}{end="${end}"} ${count}`),
      ),
      ...one('prompt_tokens_total', 'counter', 'Tokens of prompts, those of pictures included.', this.promptTokens),
      ...one('prompt_tokens_cached_total', 'counter', 'Of them, taken over from earlier prompts.', this.cachedTokens),
      ...one('generation_tokens_total', 'counter', 'Tokens of answers.', this.generationTokens),
      ...metric('time_to_first_token_seconds', 'histogram', 'From arrival to the first token.', (full) =>
        this.#firstToken.lines(full),
      ),
      ...metric('time_per_output_token_seconds', 'histogram', 'Between two tokens of an answer.', (full) =>
        this.#perToken.lines(full),
      ),
    ].join('\n')}\n`;
  }
}
