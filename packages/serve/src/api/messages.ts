/** The messages of a request. Roles, texts, pictures and videos in order. Those are named here, and fetched in pictures.ts. */
import { shown } from '@minicpm-finetune/run';
import { z } from 'zod';
import { checked, placeOf, text, unsupported } from './check.js';
import { invalid } from './error.js';

/** A picture as the request names it. */
export interface PictureReference {
  readonly kind: 'image';
  readonly url: string;
  /** `low`: not cut into slices. */
  readonly detail: 'auto' | 'low' | 'high';
  /** `messages[2].content[1]` */
  readonly place: string;
}

/** A video, likewise. */
export interface VideoReference {
  readonly kind: 'video';
  readonly url: string;
  readonly place: string;
}

type RequestPart = string | PictureReference | VideoReference;

export interface RequestMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly parts: readonly RequestPart[];
  /** Changes nothing; null: it has none. */
  readonly name: string | null;
}

const ROLES = ['system', 'developer', 'user', 'assistant'] as const;

const any = z.unknown().optional();

const MESSAGE = z.strictObject({
  role: z.string({ error: `one of ${ROLES.join(', ')}` }),
  content: any,
  name: text().nullish(),
  // what an answer of OpenAI's has besides; it is sent back with the conversation
  refusal: z.null({ error: 'null' }).optional(),
  audio: any,
  tool_calls: any,
  function_call: any,
  annotations: z.array(z.unknown(), { error: 'a list' }).nullish(),
});

const TEXT_PART = z.strictObject({ type: z.literal('text'), text: text() });
const IMAGE_PART = z.strictObject({
  type: z.literal('image_url'),
  image_url: z.strictObject(
    { url: text(), detail: z.enum(['auto', 'low', 'high'], { error: 'one of auto, low, high' }).nullish() },
    { error: 'an object like {"url": "data:image/png;base64,…"}' },
  ),
});
const VIDEO_PART = z.strictObject({
  type: z.literal('video_url'),
  video_url: z.strictObject({ url: text() }, { error: 'an object like {"url": "data:video/mp4;base64,…"}' }),
});

/** @throws ApiError naming the message, the part and the field */
export function checkMessages(value: unknown): RequestMessage[] {
  const list = checked(z.array(z.unknown(), { error: 'a list of messages' }), value, ['messages']);
  if (list.length === 0) throw invalid('Expected at least one message for messages but received none.', 'messages');
  const messages = list.map(checkMessage);
  const last = messages.at(-1)!;
  if (last.role === 'system') {
    const param = `messages[${messages.length - 1}].role`;
    throw invalid(`Expected user or assistant for ${param}, the last message, but received system.`, param);
  }
  return messages;
}

function checkMessage(value: unknown, index: number): RequestMessage {
  const path = ['messages', index];
  const object = checked(z.looseObject({}, { error: 'an object like {"role": "user", "content": "…"}' }), value, path);
  const { role, content, ...rest } = checked(MESSAGE, object, path);
  const place = placeOf([...path, 'role']);
  if (role === 'tool' || role === 'function') throw unsupported(`The role ${role}`, place, 'The models call no tools.');
  if (!ROLES.includes(role as (typeof ROLES)[number]))
    throw invalid(`Expected one of ${ROLES.join(', ')} for ${place} but received ${shown(role)}.`, place);
  for (const key of ['audio', 'tool_calls', 'function_call'] as const) {
    const given = rest[key];
    const empty = given === undefined || given === null || (Array.isArray(given) && given.length === 0);
    if (!empty) throw unsupported(key, placeOf([...path, key]), 'Messages hold text, pictures and videos.');
  }
  const kind = role === 'developer' ? 'system' : (role as RequestMessage['role']);
  return { role: kind, parts: checkContent(content, [...path, 'content'], kind), name: rest.name ?? null };
}

function checkContent(content: unknown, path: readonly PropertyKey[], role: RequestMessage['role']): RequestPart[] {
  if (typeof content === 'string') return [content];
  const error = role === 'user' ? 'a string or a list of parts' : 'a string or a list of parts of type text';
  const parts = checked(z.array(z.unknown(), { error }), content, path);
  if (parts.length === 0)
    throw invalid(`Expected at least one part for ${placeOf(path)} but received none.`, placeOf(path));
  return parts.map((part, i) => checkPart(part, [...path, i], role));
}

function checkPart(value: unknown, path: readonly PropertyKey[], role: RequestMessage['role']): RequestPart {
  const place = placeOf(path);
  const { type } = checked(
    z.looseObject(
      { type: text('text, image_url or video_url') },
      { error: 'an object like {"type": "text", "text": "…"}' },
    ),
    value,
    path,
  );
  if (type === 'text') return checked(TEXT_PART, value, path).text;
  if (type !== 'image_url' && type !== 'video_url') {
    const known = ['input_audio', 'file', 'refusal', 'input_image', 'input_text', 'image', 'video'].includes(type);
    if (known) throw unsupported(`A part of type ${type}`, place, 'Parts are of type text, image_url or video_url.');
    throw invalid(
      `Expected text, image_url or video_url for ${place}.type but received ${shown(type)}.`,
      `${place}.type`,
    );
  }
  const what = type === 'image_url' ? 'pictures' : 'videos';
  if (role !== 'user')
    throw invalid(`Expected ${what} in messages of the user only but received one in a message of ${role}.`, place);
  if (type === 'video_url') return { kind: 'video', url: checked(VIDEO_PART, value, path).video_url.url, place };
  const { url, detail } = checked(IMAGE_PART, value, path).image_url;
  return { kind: 'image', url, detail: detail ?? 'auto', place };
}
