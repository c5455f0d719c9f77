/** Calls the server's endpoints by their typed names. An error has the server's words. */
import type { Endpoints, ErrorAnswer, FieldError } from '../../src/shared/api.js';

export class RequestError extends Error {
  override readonly name = 'RequestError';
  /** HTTP status; 0: no answer came. */
  readonly status: number;
  /** The field of the request, or the flag, that is wrong; null: none of them. */
  readonly field: string | null;
  /** What helps, where the server knows it. */
  readonly cure: string | null;

  constructor(status: number, { message, field = null, cure = null }: Partial<FieldError> & { message: string }) {
    super(message);
    this.status = status;
    this.field = field;
    this.cure = cure;
  }
}

/** The names after colons in a path: `/api/runs/:id/answers/:step` has `id` and `step`. */
type Places<P extends string> = P extends `${string}:${infer Name}/${infer Rest}`
  ? Name | Places<Rest>
  : P extends `${string}:${infer Name}`
    ? Name
    : never;

type Request<K extends keyof Endpoints> = Endpoints[K]['request'];

/** What an endpoint needs: a value for each place of its path, and its request unless that is empty. */
export type Call<K extends keyof Endpoints> = {
  readonly [P in Places<K>]: string | number;
} & (Request<K> extends Record<string, never>
  ? { readonly request?: never }
  : Record<string, never> extends Request<K>
    ? { readonly request?: Request<K> }
    : { readonly request: Request<K> }) & { readonly signal?: AbortSignal };

/** Who is told when the server asks for the token. */
export const unauthorized: { tell: () => void } = { tell: () => undefined };

/** What is said when no answer comes. The browser's own words are English, and differ between browsers. */
export const noAnswer: { words: () => string } = { words: () => 'The server of the page did not answer.' };

/** The address of an endpoint: places filled in, the query added. */
export function addressOf(
  path: string,
  places: Readonly<Record<string, unknown>>,
  query: Readonly<Record<string, unknown>> = {},
): string {
  const filled = path.replace(/:(\w+)/g, (_, name: string) => encodeURIComponent(String(places[name])));
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  const words = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return words === '' ? filled : `${filled}?${words}`;
}

/** Errors are in the language of the page, which may not be the browser's. */
const languageHeader = (): Record<string, string> =>
  typeof document === 'undefined' ? {} : { 'accept-language': document.documentElement.lang };

/**
 * Sends one request and returns what the answer holds.
 *
 * @throws RequestError where the status is no success, or the server does not answer.
 */
export async function call<K extends keyof Endpoints>(endpoint: K, with_: Call<K>): Promise<Endpoints[K]['answer']> {
  const [method, path] = endpoint.split(' ') as [string, string];
  const { request, signal, ...places } = with_ as Readonly<Record<string, unknown>> & { signal?: AbortSignal };
  const reads = method === 'GET';
  const address = addressOf(path, places, reads ? (request as Record<string, unknown> | undefined) : undefined);
  let response: Response;
  try {
    response = await fetch(address, {
      method,
      credentials: 'same-origin',
      headers: { ...languageHeader(), ...(reads ? {} : { 'content-type': 'application/json' }) },
      ...(reads ? {} : { body: JSON.stringify(request ?? {}) }),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new RequestError(0, { message: noAnswer.words() });
  }
  if (response.status === 401) unauthorized.tell();
  const text = await response.text();
  if (!response.ok) throw failure(response.status, text);
  return text === '' ? {} : JSON.parse(text);
}

/** The error of an answer: `{ error }` as the server writes it, or its plain text. */
export function failure(status: number, text: string): RequestError {
  try {
    const { error } = JSON.parse(text) as Partial<ErrorAnswer>;
    if (error !== undefined) return new RequestError(status, error);
  } catch {
    // Not JSON: an answer of something between the page and its server.
  }
  return new RequestError(status, { message: text.trim().slice(0, 300) || `status ${status}` });
}

/** The words of anything that was thrown. */
export function wordsOf(error: unknown): string {
  if (error instanceof RequestError) return error.cure === null ? error.message : `${error.message} ${error.cure}`;
  return error instanceof Error ? error.message : String(error);
}

/** The address of a picture, at most `width` pixels wide. */
export const imageAddress = (handle: string, width: number): string =>
  addressOf('/api/images/:handle', { handle }, { w: width });
