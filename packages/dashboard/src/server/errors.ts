/** A mistake of a request. With its status, its sentence, the field at fault and the cure. It is answered as `{ error: FieldError }`. */
import type { FieldError } from '../shared/api.js';

export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 409 | 411 | 413 | 415 | 421 | 422 | 429 | 500 | 503;

export class ApiError extends Error {
  readonly status: ErrorStatus;
  readonly field: string | null;
  readonly cure: string | null;

  constructor(status: ErrorStatus, message: string, { field = null, cure = null }: Partial<FieldError> = {}) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.field = field;
    this.cure = cure;
  }

  get answer(): { error: FieldError } {
    return { error: { message: this.message, field: this.field, cure: this.cure } };
  }
}

/** What a handle leads to is not there (any more). */
export function notFound(what: string): ApiError {
  return new ApiError(404, `Expected ${what} but there is none of this handle.`, { cure: 'Load the page again.' });
}
