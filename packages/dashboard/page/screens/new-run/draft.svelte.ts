/** The form of a new run. Its fields, what the server says of them live, a dry run, and the start. It stays while the page is open. */
import type {
  CheckedValues,
  DryRunAnswer,
  EstimateAnswer,
  FieldError,
  FlagsTable,
  FlagValues,
} from '../../../src/shared/api.js';
import { call, RequestError, wordsOf } from '../../client/request.js';
import { type Fields, fieldsOf, valuesOf } from './form.js';

/** Milliseconds after the last key until the server is asked. */
const PAUSE = 150;

class Draft {
  table: FlagsTable | undefined = $state.raw();
  fields: Record<string, string> = $state({});
  checked: CheckedValues | undefined = $state.raw();
  dry: DryRunAnswer | undefined = $state.raw();
  estimate: EstimateAnswer | undefined = $state.raw();
  /** What runs now. */
  busy: 'dry' | 'estimate' | 'start' | 'recipe' | null = $state(null);
  failure = $state('');
  /** Refusals of a dry run or a start, beside the fields until they are changed. */
  refused: readonly FieldError[] = $state.raw([]);
  /** Keys of a recipe that the form has no field for. */
  left: readonly string[] = $state.raw([]);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asked = 0;

  get values(): Record<string, unknown> {
    return valuesOf($state.snapshot(this.fields) as Fields, this.table?.flags ?? []);
  }

  /** What is wrong with a field. */
  mistakeOf(name: string): FieldError | undefined {
    return [...(this.checked?.mistakes ?? []), ...this.refused].find(({ field }) => field === name);
  }

  async load(): Promise<void> {
    try {
      this.table ??= await call('GET /api/flags', {});
      await this.check();
    } catch (error) {
      this.failure = wordsOf(error);
    }
  }

  set(name: string, text: string): void {
    this.fields[name] = text;
    this.#changed();
  }

  /** Puts values into the form; `replace`: and empties the other fields. */
  fill(values: FlagValues, replace: boolean): void {
    this.fields = { ...(replace ? {} : this.fields), ...fieldsOf(values) };
    this.#changed();
  }

  #changed(): void {
    this.refused = [];
    this.dry = undefined;
    this.estimate = undefined;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.check(), PAUSE);
  }

  /** Asks the server for command line, recipe and mistakes. */
  async check(): Promise<void> {
    const asked = ++this.#asked;
    try {
      const request = { values: this.values };
      const checked = await call('POST /api/command', { request });
      if (asked === this.#asked) this.checked = checked;
    } catch (error) {
      if (asked === this.#asked) this.#refuse(error);
    }
  }

  async dryRun(): Promise<void> {
    await this.#work('dry', async () => {
      this.dry = await call('POST /api/dry-run', { request: { values: this.values } });
      if (this.dry.error !== null) this.#refuse(this.dry.error);
    });
  }

  async fit(): Promise<void> {
    await this.#work('estimate', async () => {
      this.estimate = await call('POST /api/estimate', { request: { values: this.values } });
      if (this.estimate.error !== null) this.#refuse(this.estimate.error);
    });
  }

  async takeRecipe(text: string): Promise<void> {
    await this.#work('recipe', async () => {
      const { error, values, left } = await call('POST /api/recipe', { request: { text } });
      if (error !== null) return this.#refuse(error);
      this.fill(values, true);
      this.left = left;
    });
  }

  async takeRun(id: string): Promise<void> {
    await this.#work('recipe', async () => {
      const { values } = await call('GET /api/runs/:id/recipe', { id });
      this.fill(values, true);
      this.left = [];
    });
  }

  /** Starts the run and returns its id; undefined: refused. */
  async start(queue: boolean): Promise<string | undefined> {
    let run: string | undefined;
    await this.#work('start', async () => {
      const request = { values: this.values, queue };
      ({ run } = await call('POST /api/runs', { request }));
    });
    return run;
  }

  async #work(kind: NonNullable<Draft['busy']>, work: () => Promise<void>): Promise<void> {
    this.busy = kind;
    this.failure = '';
    this.refused = [];
    try {
      await work();
    } catch (error) {
      this.#refuse(error);
    } finally {
      this.busy = null;
    }
  }

  /** A refusal goes beside its field, or above the buttons where it has none. */
  #refuse(error: unknown): void {
    const { message, field, cure } = error instanceof RequestError || isFieldError(error) ? error : unnamed(error);
    const known = this.table?.flags.some(({ name }) => name === field) ?? false;
    this.refused = [{ message, field, cure }];
    if (!known) this.failure = cure === null ? message : `${message} ${cure}`;
  }
}

const isFieldError = (error: unknown): error is FieldError =>
  typeof error === 'object' && error !== null && 'message' in error && 'cure' in error;

const unnamed = (error: unknown): FieldError => ({ message: wordsOf(error), field: null, cure: null });

export const draft = new Draft();
