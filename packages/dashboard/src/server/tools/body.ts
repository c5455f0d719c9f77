/** Bodies and queries of requests, checked by zod. The first mistake names its field. */
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
  return checked(schema, value, 'the body');
}

/** The query. @throws ApiError 400 */
export function queryOf<T>(c: Context, schema: z.ZodType<T>): T {
  return checked(schema, c.req.query(), 'the query');
}

function checked<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  const [issue] = error.issues;
  const field = issue?.path.join('.') ?? '';
  throw new ApiError(400, `Expected another ${field === '' ? where : field} of the request: ${issue?.message}.`, {
    field: field === '' ? null : field,
  });
}

/** A number of a path, such as `:n`. @throws ApiError 404 */
export function numberOf(c: Context, name: string): number {
  const text = c.req.param(name) ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new ApiError(404, `Expected a number for ${name} in the address but received another text.`);
}

/** An integer of a query. */
export const INTEGER = z.coerce.number().int().min(0).max(1e9);
