/** Bodies and queries of requests, checked by zod. The first mistake names its field. */
import { shown } from '@minicpm-finetune/run';
import type { Context } from 'hono';
import { z } from 'zod';
import { ApiError } from '../errors.js';

/** The JSON body. @throws ApiError 400 */
export async function bodyOf<T>(c: Context, schema: z.ZodType<T>): Promise<T> {
  let value: unknown;
  try {
    value = await c.req.json();
  } catch {
    throw new ApiError(400, 'Expected JSON as the body of the request but received something else.');
  }
  return checked(schema, value);
}

/** The query. @throws ApiError 400 */
export function queryOf<T>(c: Context, schema: z.ZodType<T>): T {
  return checked(schema, c.req.query());
}

function checked<T>(schema: z.ZodType<T>, value: unknown): T {
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  const issue = error.issues[0]!;
  if (issue.code === 'unrecognized_keys') {
    const field = [...issue.path, issue.keys[0]].join('.');
    throw new ApiError(400, `Expected a field of the request but received ${shown(field)}.`, { field });
  }
  const field = issue.path.join('.');
  const received = issue.path.reduce<unknown>((of, key) => (of as Record<PropertyKey, unknown> | null)?.[key], value);
  throw new ApiError(
    400,
    `Expected ${wanted(issue)} for ${field === '' ? 'the request' : field} but received ${shown(received)}.`,
    {
      field: field === '' ? null : field,
    },
  );
}

/** What would be right, in words. */
function wanted(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_type')
    return issue.expected === 'string' ? 'a text' : `a value of type ${issue.expected}`;
  if (issue.code === 'invalid_value') return `one of ${issue.values.join(', ')}`;
  if (issue.code === 'too_small') {
    if (issue.origin === 'string')
      return issue.minimum === 1 ? 'a text' : `a text of at least ${issue.minimum} characters`;
    return issue.origin === 'array' ? `a list of at least ${issue.minimum}` : `a number of at least ${issue.minimum}`;
  }
  if (issue.code === 'too_big') {
    if (issue.origin === 'string') return `a text of up to ${issue.maximum} characters`;
    return issue.origin === 'array' ? `a list of up to ${issue.maximum}` : `a number up to ${issue.maximum}`;
  }
  return 'another value';
}

/** A number of a path, such as `:n`. @throws ApiError 404 */
export function numberOf(c: Context, name: string): number {
  const text = c.req.param(name) ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new ApiError(404, `Expected a number for ${name} in the address but received another text.`);
}

/** An integer of a query. */
export const INTEGER = z.coerce.number().int().min(0).max(1e9);
