/** Values checked against a form. The error names the field with its place, and shows what was received. */
import { nearestName, shown } from '@minicpm-finetune/run';
import { z } from 'zod';
import { ApiError, invalid } from './error.js';

type Path = readonly PropertyKey[];

/** `messages[2].content[1]` */
export function placeOf(path: Path): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}

/** The value at a place inside another one. */
const valueAt = (value: unknown, path: Path): unknown =>
  path.reduce<unknown>((inner, key) => (inner as Record<PropertyKey, unknown> | null | undefined)?.[key], value);

/**
 * A value of the form. The messages of the form's checks say what is expected: `a number from 0 to 2`.
 *
 * @param path where the value stands in the request
 * @throws ApiError naming the first field that is wrong or unknown
 */
export function checked<T>(form: z.ZodType<T>, value: unknown, path: Path = []): T {
  const result = form.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const place = [...path, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    throw unknownField([...place, issue.keys[0]!], form);
  }
  const param = placeOf(place);
  const received = valueAt(value, issue.path);
  const what = `Expected ${issue.message} for ${param === '' ? 'the request' : param} but received ${shown(received)}.`;
  throw new ApiError(400, what, {
    ...(param === '' ? {} : { param }),
    code: received === undefined ? 'missing_required_parameter' : 'invalid_value',
  });
}

function unknownField(place: Path, form: z.ZodType): ApiError {
  const param = placeOf(place);
  const known = form instanceof z.ZodObject ? Object.keys(form.shape) : [];
  const near = nearestName(String(place.at(-1)), known);
  const cure = near === undefined ? 'Leave it out.' : `Did you mean ${near}?`;
  return invalid(`Unknown parameter: ${shown(param)}. ${cure}`, param, 'unknown_parameter');
}

/** A field that is known and not supported. */
export const unsupported = (what: string, param: string, cure: string): ApiError =>
  invalid(`${what} is not supported by this server. ${cure}`, param, 'unsupported_parameter');

/** A number from `min` to `max`. */
export const number = (min: number, max: number): z.ZodNumber => {
  const error = `a number from ${min} to ${max}`;
  return z.number({ error }).min(min, { error }).max(max, { error });
};

/** An integer from `min` to `max`. */
export const integer = (min: number, max: number): z.ZodNumber => {
  const error = max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
};

export const boolean = (): z.ZodBoolean => z.boolean({ error: 'true or false' });
export const text = (what = 'a string'): z.ZodString => z.string({ error: what });
