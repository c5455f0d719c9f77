/**
 * The error for mistakes a user can repair. For example a wrong flag, a bad record, a broken checkpoint.
 *
 * Not for broken invariants (use `assert`) nor for failures of the machine. It is printed without a stack, so its text
 * has to say everything: where, what was expected, what was received, and the cure.
 */
import { ENGLISH, labelled, type Say } from './messages/translator.js';
import { shown, shownPath } from './shown.js';

/** The place of a mistake and its cure. Pure data: survives `postMessage` between threads. */
export interface UserErrorDetails {
  /** The file at fault: a data file, an image, a recipe, a checkpoint. */
  file?: string;
  /** 1-based line in `file`. */
  line?: number;
  /** 0-based index of the record in the data file (or its id). */
  record?: number | string;
  /** 0-based index of the turn in the record's conversation. */
  turn?: number;
  /** The key of the record or turn at fault; not printed, the message names it. For counting. */
  key?: string;
  /** The command-line flag at fault, with its dashes. */
  flag?: string;
  /** The cure, as a full sentence. */
  cure?: string;
}

/** A `UserError` as plain data, for crossing threads; see `UserError.fromData`. */
export interface UserErrorData extends UserErrorDetails {
  message: string;
}

const DETAILS = ['file', 'line', 'record', 'turn', 'key', 'flag', 'cure'] as const;

/**
 * `new UserError('Expected an image for <image_00> but received "a.txt".', { file, record, turn, cure })`.
 * `message` holds the sentence alone; `format()` adds place and cure.
 */
export class UserError extends Error {
  declare readonly file?: string;
  declare readonly line?: number;
  declare readonly record?: number | string;
  declare readonly turn?: number;
  declare readonly key?: string;
  declare readonly flag?: string;
  declare readonly cure?: string;

  constructor(message: string, details: UserErrorDetails & { cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'UserError';
    for (const key of DETAILS) {
      if (details[key] !== undefined) Object.defineProperty(this, key, { value: details[key], enumerable: true });
    }
  }

  /** The same error with places filled in that it does not name itself (an inner layer knows the turn, an outer one the file). */
  at(place: UserErrorDetails): UserError {
    const error = new UserError(this.message, { ...place, ...this.details(), cause: this.cause });
    if (this.stack !== undefined) error.stack = this.stack;
    return error;
  }

  /** The details besides the message. */
  details(): UserErrorDetails {
    return Object.fromEntries(DETAILS.filter((key) => this[key] !== undefined).map((key) => [key, this[key]]));
  }

  /** Plain data for `postMessage`; `UserError.fromData` makes an error of it again. */
  toData(): UserErrorData {
    return { message: this.message, ...this.details() };
  }

  static fromData(data: UserErrorData): UserError {
    return new UserError(data.message, data);
  }

  /**
   * Several readable lines, without a trailing newline: the sentence, the place, the cure.
   *
   * @param say in what language; English unless given.
   * @param kind of the mistake.
   */
  format(say: Say = ENGLISH, kind: 'error' | 'warning' = 'error'): string {
    const path = this.file === undefined ? undefined : shownPath(this.file);
    const file = this.line === undefined ? path : `${path ?? 'line'}:${this.line}`;
    const place = [
      this.flag,
      file,
      this.record === undefined ? undefined : `record ${this.record}`,
      this.turn === undefined ? undefined : `turn ${this.turn}`,
    ].filter((part) => part !== undefined);
    const line = (label: string, text: string): string =>
      labelled(say === ENGLISH ? label.padStart(5) : label, text, say);
    const lines = [line(kind, this.message)];
    if (place.length > 0) lines.push(line('at', place.join(', ')));
    if (this.cure !== undefined) lines.push(line('cure', this.cure));
    return lines.join('\n');
  }
}

/** What is wrong with values, before it is known where they were given: `Expected <expected> but received <received>.` */
export interface Problem {
  expected: string;
  received: string;
  /** The cure, as a full sentence. */
  cure: string;
}

/**
 * The one wording of the project: `Expected <what> for <where> but received <received>.`
 * The received value is shown by `shown`; the cure belongs into `details`.
 */
export function expected(
  what: string,
  where: string,
  received: unknown,
  details: UserErrorDetails & { cause?: unknown } = {},
): UserError {
  return new UserError(`Expected ${what} for ${where} but received ${shown(received)}.`, details);
}
