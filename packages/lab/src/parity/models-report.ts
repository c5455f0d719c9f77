/** One line per model check, and distances of tensors. What was compared, how far apart it is, how far it may be. */
import { allowTf32, type DType, ops, scope, type Tensor } from '@minicpm-finetune/torch';

/** One result. `error` is null when the check could not be carried out; `message` then says why. */
export interface CheckResult {
  readonly model: string;
  readonly check: string;
  readonly error: number | null;
  readonly tolerance: number;
  readonly ok: boolean;
  readonly message?: string;
}

/** Where a model is compared, and in what precision. */
export interface Setting {
  readonly device: string;
  readonly precision: Precision;
}

export type Precision = 'float32' | 'tf32' | 'bfloat16';

/**
 * How many times the tolerances of float32 a precision may take. Those are some hundred times what float32 needs; bfloat16 on a CPU needs a
 * fifth to three quarters of this. TF32 rounds operands to 10 bits where bfloat16 rounds everything to 7, an eighth of its error.
 */
export const KINDNESS: Readonly<Record<Precision, number>> = { float32: 1, tf32: 100, bfloat16: 1000 };

/** Lets products of float32 be rounded to TF32, or not, as a setting has it. */
export function setPrecision({ precision }: Setting): void {
  allowTf32(precision === 'tf32');
}

/** Runs checks of one model and prints a line for each. */
export class Report {
  failures = 0;
  checks = 0;
  /** The largest error, as a share of what is allowed, of the checks that allow one. */
  worst = 0;

  /** How many times the noise of other models this one has: allowed where the arithmetic is not the reference's. */
  noise = 1;

  readonly model: string;
  readonly #print: (line: string) => void;
  readonly setting: Setting;

  constructor(
    model: string,
    print: (line: string) => void,
    setting: Setting = { device: 'cpu', precision: 'float32' },
  ) {
    this.model = model;
    this.#print = print;
    this.setting = setting;
  }

  /** Carries out a check: `measure` returns the error. What it throws is a failure of this check alone. */
  check(check: string, tolerance: number, measure: () => number): void {
    this.attempt(check, tolerance, () => this.#measured(check, tolerance, scope(measure)));
  }

  /** The same for what takes turns of the event loop. */
  async checkLater(check: string, tolerance: number, measure: () => Promise<number>): Promise<void> {
    const settled = await measure().then(
      (error) => () => this.#measured(check, tolerance, error),
      (cause: unknown) => () => this.#failed(check, tolerance, cause),
    );
    settled();
  }

  /** Does what several checks need in common. If it throws, that is a failed check. */
  attempt(check: string, tolerance: number, work: () => void): void {
    try {
      work();
    } catch (cause) {
      this.#failed(check, tolerance, cause);
    }
  }

  /** The same for what takes turns of the event loop. */
  async attemptLater(check: string, tolerance: number, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (cause) {
      this.#failed(check, tolerance, cause);
    }
  }

  #measured(check: string, strict: number, error: number): void {
    const { device, precision } = this.setting;
    const tolerance = strict * KINDNESS[precision] * (device === 'cpu' && precision === 'float32' ? 1 : this.noise);
    if (tolerance > 0) this.worst = Math.max(this.worst, error / tolerance);
    this.#add({ check, error: Number.isFinite(error) ? error : null, tolerance, ok: error <= tolerance });
  }

  #failed(check: string, tolerance: number, cause: unknown): void {
    const message = cause instanceof Error ? cause.message : String(cause);
    this.#add({ check, error: null, tolerance, ok: false, message });
  }

  #add(result: Omit<CheckResult, 'model'>): void {
    this.checks++;
    if (!result.ok) this.failures++;
    this.#print(JSON.stringify({ model: this.model, ...result }));
  }
}

/** The values on the CPU, where they are compared. */
export const onCpu = (tensor: Tensor, dtype: DType = 'float32'): Tensor => ops.toDevice(tensor, 'cpu', dtype);

/** Largest absolute difference; infinite when the shapes differ or a value is not a number. */
export function maxDifference(actual: Tensor, expected: Tensor): number {
  if (actual.shape.join() !== expected.shape.join())
    throw new Error(`Expected shape [${expected.shape.join(', ')}] but received [${actual.shape.join(', ')}]`);
  if (expected.numel === 0) return 0;
  const difference = ops.maxAll(ops.abs(ops.sub(onCpu(actual), onCpu(expected)))).item();
  return Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
}

/** Largest absolute difference relative to the scale of the expected values, where that is above 1. */
export function scaledDifference(actual: Tensor, expected: Tensor): number {
  const scale = expected.numel === 0 ? 1 : ops.maxAll(ops.abs(expected)).item();
  return maxDifference(actual, expected) / Math.max(1, scale);
}

/** Names that are in one list only, as an error message; the error is their count. */
export function nameDifference(actual: Iterable<string>, expected: Iterable<string>): number {
  const ours = new Set(actual);
  const theirs = new Set(expected);
  const missing = [...theirs].filter((name) => !ours.has(name));
  const extra = [...ours].filter((name) => !theirs.has(name));
  if (missing.length + extra.length === 0) return 0;
  throw new Error(
    `missing: ${missing.slice(0, 5).join(', ') || 'none'}; unexpected: ${extra.slice(0, 5).join(', ') || 'none'}`,
  );
}

/** Largest of the numbers, 0 for none. */
export function largest(values: Iterable<number>): number {
  let result = 0;
  for (const value of values) result = Number.isNaN(value) ? Number.POSITIVE_INFINITY : Math.max(result, value);
  return result;
}
