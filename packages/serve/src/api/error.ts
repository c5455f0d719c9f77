/** An answer that is an error, in OpenAI's form. */
import { UserError } from '@minicpm-finetune/run';

export interface ApiErrorDetails {
  /** The field at fault and its place: `messages[2].content[1]`. */
  readonly param?: string;
  /** What programs tell errors apart by: `context_length_exceeded`. */
  readonly code?: string;
  /** Defaults by status. */
  readonly type?: string;
  /** Seconds after which the client may try again; absent: it should not by itself. */
  readonly retryAfter?: number;
  readonly cause?: unknown;
}

const TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  408: 'timeout_error',
  429: 'rate_limit_error',
  500: 'server_error',
  503: 'unavailable_error',
};

export class ApiError extends Error {
  readonly status: number;
  readonly type: string;
  readonly param: string | null;
  readonly code: string | null;
  readonly retryAfter: number | null;

  constructor(status: number, message: string, details: ApiErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'ApiError';
    this.status = status;
    this.type = details.type ?? TYPES[status] ?? 'invalid_request_error';
    this.param = details.param ?? null;
    this.code = details.code ?? null;
    this.retryAfter = details.retryAfter ?? null;
  }

  /** The body of the answer, also as it stands in the middle of a stream. */
  body(): { readonly error: object } {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }

  /** Headers: whether and when OpenAI's clients try again. */
  headers(): Record<string, string> {
    if (this.retryAfter !== null) return { 'retry-after': String(this.retryAfter), 'x-should-retry': 'true' };
    return { 'x-should-retry': 'false' };
  }
}

/** A request that is wrong. */
export const invalid = (message: string, param: string, code = 'invalid_value'): ApiError =>
  new ApiError(400, message, { param, code });

/** What a user can repair, as an error of the request. Cures that speak of flags or records are not for clients, and left out. */
export function fromUserError(error: UserError, param: string, code = 'invalid_value'): ApiError {
  const cure = error.cure === undefined || /--|\brecord\b/.test(error.cure) ? '' : ` ${error.cure}`;
  return new ApiError(400, `${error.message}${cure}`, { param, code, cause: error });
}

/** Any error as one of an answer. What nobody foresaw says nothing of the server's inside. */
export function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof UserError) return new ApiError(500, error.message, { cause: error });
  return new ApiError(500, 'The server failed to answer. Its log says why.', { cause: error });
}
