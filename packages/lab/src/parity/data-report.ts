/** Prints data parity checks as lines of JSON. The checks themselves compare. */

/** The result of one check over all of its cases. */
export interface CheckLine {
  /** Tokenizer and variant, or `common` where no tokenizer is involved. */
  model: string;
  check: string;
  /** Largest error of a case: 1 where something exact differs, else a difference in units of the tolerance. */
  error: number;
  tolerance: number;
  ok: boolean;
  cases: number;
  /** The first cases that failed, and how. Absent when all is well. */
  failed?: string[];
}

const SHOWN_FAILURES = 5;

/** Gathers the cases of one check. */
export class Check {
  #error = 0;
  #tolerance = 0;
  #cases = 0;
  readonly #failures: string[] = [];

  readonly #model: string;
  readonly #name: string;

  constructor(model: string, name: string) {
    this.#model = model;
    this.#name = name;
  }

  /** A case whose error is a number. */
  measure(label: string, error: number, tolerance: number, detail = ''): void {
    this.#cases++;
    this.#error = Math.max(this.#error, error);
    this.#tolerance = Math.max(this.#tolerance, tolerance);
    if (!(error <= tolerance)) this.#failures.push(`${label}: ${detail || `error ${error}`}`);
  }

  /** A case that has to be equal. */
  equal(label: string, received: unknown, expected: unknown): void {
    const difference = firstDifference(received, expected);
    this.measure(label, difference === undefined ? 0 : 1, 0, difference);
  }

  /** Undefined when there was nothing to check. */
  line(): CheckLine | undefined {
    if (this.#cases === 0) return undefined;
    const model = this.#model;
    const check = this.#name;
    const error = this.#error;
    const tolerance = this.#tolerance;
    const cases = this.#cases;
    const failures = this.#failures;
    const failed = failures.slice(0, SHOWN_FAILURES);
    if (failures.length > failed.length) failed.push(`and ${failures.length - failed.length} more`);
    const ok = failures.length === 0;
    return { model, check, error, tolerance, ok, cases, ...(ok ? {} : { failed }) };
  }
}

type List = ArrayLike<unknown>;

function isList(value: unknown): value is List {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

function show(value: unknown): string {
  const text = JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? Number(item) : item)) ?? 'nothing';
  return text.length <= 100 ? text : `${text.slice(0, 100)}…`;
}

/** Where two values (numbers, strings, null, lists of them at any depth) differ first, in words; undefined when nowhere. */
function firstDifference(received: unknown, expected: unknown): string | undefined {
  if (!isList(received) || !isList(expected)) {
    return Object.is(received, expected) ? undefined : `expected ${show(expected)} but received ${show(received)}`;
  }
  for (let i = 0; i < Math.min(received.length, expected.length); i++) {
    const inner = firstDifference(received[i], expected[i]);
    if (inner) return `at ${i}: ${inner}`;
  }
  if (received.length === expected.length) return undefined;
  return `expected ${expected.length} items but received ${received.length}`;
}
