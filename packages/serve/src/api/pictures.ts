/**
 * The bytes of a request's pictures and videos. `data:` addresses are read; addresses of the net and files only where the operator allows them,
 * because a server that fetches what strangers name reaches what they cannot (SSRF).
 *
 * What the bytes are is found by decoding them (the processor), never believed.
 */
import { realpathSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pictureFromText } from '@minicpm-finetune/processor';
import { shown, UserError } from '@minicpm-finetune/run';
import { ApiError, fromUserError, invalid } from './error.js';
import type { PictureReference, VideoReference } from './messages.js';

export interface PicturePolicy {
  /** Hosts (`example.com`, `example.com:8443`) whose pictures are fetched. */
  readonly allowedHosts: readonly string[];
  /** Folder below which `file://` addresses are read; null: none. */
  readonly mediaPath: string | null;
  /** Most bytes of a picture that is fetched or read. */
  readonly maxBytes: number;
}

const FETCH_SECONDS = 20;
const DATA = /^data:image\/(png|jpeg|jpg|webp|gif|bmp);base64,/i;
const DATA_FORM = 'data:image/png;base64,… (png, jpeg, webp, gif or bmp)';

const VIDEO = /^data:video\/[\w.+-]{1,40};base64,/i;
const VIDEO_FORM = 'data:video/mp4;base64,… (mp4, quicktime, webm, x-matroska, x-msvideo, mpeg or ogg)';

/** Videos come in the request alone: addresses are not fetched and files are not read. @throws ApiError naming the part */
export function videoBytes({ url, place }: VideoReference): Uint8Array {
  const start = VIDEO.exec(url)?.[0];
  const refuse = (received: string): ApiError =>
    invalid(`Expected ${VIDEO_FORM} for ${place}.video_url.url but received ${received}.`, place);
  if (start === undefined) throw refuse(shown(url));
  const base64 = url.slice(start.length);
  const bytes = Buffer.from(base64, 'base64');
  if (bytes.length === 0 || bytes.toString('base64').replace(/=+$/, '') !== base64.replace(/=+$/, ''))
    throw refuse('a text that is no base64');
  return bytes;
}

/** @throws ApiError naming the part */
export async function pictureBytes(
  { url, place }: PictureReference,
  policy: PicturePolicy,
  signal: AbortSignal,
): Promise<Uint8Array> {
  if (/^\s*data:/i.test(url)) return fromData(url, place);
  const address = URL.canParse(url) ? new URL(url) : null;
  if (address?.protocol === 'file:') return await fromFile(address, url, place, policy);
  if (address?.protocol === 'http:' || address?.protocol === 'https:')
    return await fromNet(address, url, place, policy, signal);
  throw invalid(`Expected ${DATA_FORM} for ${place}.image_url.url but received ${shown(url)}.`, place);
}

function fromData(url: string, place: string): Uint8Array {
  if (!DATA.test(url))
    throw invalid(`Expected ${DATA_FORM} for ${place}.image_url.url but received ${shown(url)}.`, place);
  try {
    return pictureFromText(url, place)!;
  } catch (error) {
    throw error instanceof UserError ? fromUserError(error, place, 'invalid_image') : error;
  }
}

async function fromFile(
  address: URL,
  url: string,
  place: string,
  { mediaPath, maxBytes }: PicturePolicy,
): Promise<Uint8Array> {
  const refuse = (): ApiError =>
    invalid(
      `Expected a picture of the folder that this server serves for ${place}.image_url.url but received ${shown(url)}.`,
      place,
      'picture_not_allowed',
    );
  if (mediaPath === null) {
    const message = `Files are not read by this server, but ${place}.image_url.url is ${shown(url)}. Send the picture as ${DATA_FORM}.`;
    throw invalid(message, place, 'picture_not_allowed');
  }
  let path: string;
  try {
    path = realpathSync(fileURLToPath(address));
    if (!path.startsWith(`${realpathSync(mediaPath)}${sep}`) || !statSync(path).isFile()) throw refuse();
  } catch {
    throw refuse(); // the same words whether there is such a file or not
  }
  if (statSync(path).size > maxBytes) throw tooLarge(place, maxBytes);
  return await readFile(path);
}

const tooLarge = (place: string, maxBytes: number): ApiError =>
  invalid(`Expected a picture of at most ${maxBytes} bytes for ${place} but it has more.`, place, 'invalid_image');

async function fromNet(
  address: URL,
  url: string,
  place: string,
  { allowedHosts, maxBytes }: PicturePolicy,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const port = address.port || (address.protocol === 'https:' ? '443' : '80');
  const names = [address.host, `${address.hostname}:${port}`];
  if (!names.some((name) => allowedHosts.includes(name)) || address.username !== '' || address.password !== '') {
    const message = `Pictures of ${shown(address.host)} are not fetched by this server, but ${place}.image_url.url names one. Send the picture as ${DATA_FORM}.`;
    throw invalid(message, place, 'picture_not_allowed');
  }
  const failed = (why: string, cause?: unknown): ApiError =>
    new ApiError(400, `Expected a picture at ${shown(url)} for ${place} but received ${why}.`, {
      param: place,
      code: 'invalid_image',
      cause,
    });
  try {
    // a redirection may lead to a host that is not allowed
    const response = await fetch(address, {
      redirect: 'error',
      signal: AbortSignal.any([signal, AbortSignal.timeout(FETCH_SECONDS * 1000)]),
    });
    if (!response.ok) throw failed(`status ${response.status}`);
    return await limited(response, maxBytes, place);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw failed('no answer, or a redirection', error);
  }
}

/** The body of an answer, given up as soon as it is too large. */
async function limited(response: Response, maxBytes: number, place: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > maxBytes) throw tooLarge(place, maxBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
