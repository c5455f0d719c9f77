/** The JSON of a request's body. Its type and size are looked at before it is read. */
import { ApiError, invalid } from '../api/error.js';

const MAX_BODY_BYTES = 32 * 2 ** 20;

/** @throws ApiError 413, 415 or 400 */
export async function jsonBody(request: Request): Promise<unknown> {
  const type = request.headers.get('content-type') ?? '';
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    // a web page can send other types across origins without being asked whether it may
    throw new ApiError(415, 'Expected content-type application/json for the request.', {
      code: 'unsupported_media_type',
    });
  }
  const bytes = await limitedBytes(request);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ApiError(400, 'Expected UTF-8 for the body of the request but received other bytes.', {
      code: 'invalid_json',
      cause,
    });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const found = text.trim() === '' ? 'nothing' : (cause as Error).message.slice(0, 200);
    throw new ApiError(400, `Expected JSON for the body of the request but received: ${found}`, {
      code: 'invalid_json',
      cause,
    });
  }
  requirePlain(value);
  return value;
}

/** Nothing that a request can say lies deeper; what follows may call itself for each level. */
const MOST_LEVELS = 64;

/** Refuses what checks of fields do not see: `__proto__`, which is no field of objects, and lists in lists without end. */
function requirePlain(body: unknown): void {
  let level: object[] = [body].filter(isObject);
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > MOST_LEVELS) {
      const message = `Expected at most ${MOST_LEVELS} levels of lists and objects for the body of the request but it has more.`;
      throw new ApiError(400, message, { code: 'invalid_json' });
    }
    const below: object[] = [];
    for (const value of level) {
      if (Object.hasOwn(value, '__proto__'))
        throw invalid('Unknown parameter: "__proto__". Leave it out.', '__proto__', 'unknown_parameter');
      for (const one of Object.values(value)) if (isObject(one)) below.push(one);
    }
    level = below;
  }
}

const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;

async function limitedBytes(request: Request): Promise<Uint8Array> {
  const tooLarge = (): ApiError =>
    new ApiError(
      413,
      `Expected at most ${MAX_BODY_BYTES} bytes for the body of a request but it has more. Send smaller or fewer pictures and videos.`,
      {
        code: 'request_too_large',
      },
    );
  if (Number(request.headers.get('content-length') ?? 0) > MAX_BODY_BYTES) throw tooLarge();
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of request.body ?? []) {
      size += chunk.length;
      if (size > MAX_BODY_BYTES) throw tooLarge();
      chunks.push(chunk);
    }
  } catch (cause) {
    if (cause instanceof ApiError) throw cause;
    // the client went away: nobody reads the answer, and nothing went wrong here
    throw new ApiError(400, 'The connection ended before the whole body had come.', { code: 'incomplete_body', cause });
  }
  return Buffer.concat(chunks, size);
}
