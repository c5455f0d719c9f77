/** The JSON of a request's body. Its type and size are looked at before it is read. */
import { ApiError } from '../api/error.js';

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
  try {
    return JSON.parse(text);
  } catch (cause) {
    const found = text.trim() === '' ? 'nothing' : (cause as Error).message.slice(0, 200);
    throw new ApiError(400, `Expected JSON for the body of the request but received: ${found}`, {
      code: 'invalid_json',
      cause,
    });
  }
}

async function limitedBytes(request: Request): Promise<Uint8Array> {
  const tooLarge = (): ApiError =>
    new ApiError(
      413,
      `Expected at most ${MAX_BODY_BYTES} bytes for the body of a request but it has more. Send smaller or fewer pictures.`,
      {
        code: 'request_too_large',
      },
    );
  if (Number(request.headers.get('content-length') ?? 0) > MAX_BODY_BYTES) throw tooLarge();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw tooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}
