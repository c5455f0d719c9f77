/**
 * A training record in the official scripts' form. A conversation, its images and videos. Schema and messages only; what a
 * conversation may say is checked where it is encoded.
 */
import { shown, UserError } from '@minicpm-finetune/run';
import { z } from 'zod';
import type { ImageSource } from '../image/decode.js';
import type { VideoSource } from '../video/source.js';
import type { Role } from './templates.js';

const roleNames = ['system', 'user', 'assistant'] as const satisfies readonly Role[];
const videoSource = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)], {
  error: 'the path of a video, or the paths of its frames',
});
const imageSource = z.union([z.string().min(1), z.instanceof(Uint8Array)], { error: 'the path of an image' });

/** `{"id", "image": path | {"<image_00>": path, …}, "conversations": [{"role", "content"}, …]}`; more keys are ignored. */
export const recordSchema = z.object({
  id: z.union([z.string(), z.number()]).nullish(),
  /** One image, or images by the tags that stand for them in the text. Absent: a text-only record. */
  image: z
    .union([imageSource, z.record(z.string(), imageSource)], {
      error: 'the path of an image, or an object of tags and paths such as {"<image_00>": "a.jpg"}',
    })
    .nullish(),
  /** The same for videos, with tags like `<video>` and `<video_00>`. */
  video: z
    .union([videoSource, z.record(z.string(), videoSource)], {
      error: 'the path of a video, or an object of tags and paths such as {"<video_00>": "a.mp4"}',
    })
    .nullish(),
  conversations: z.array(
    z.object({
      role: z.enum(roleNames, { error: 'user or assistant (or system for the first turn)' }),
      content: z.string({ error: 'text' }),
      /** false: an answer that is not learned; it stays in the conversation as context. */
      supervised: z.boolean({ error: 'true or false' }).optional(),
      /** What the assistant thought before this answer. */
      thought: z.string({ error: 'text' }).optional(),
    }),
    { error: 'a list of turns with role and content' },
  ),
});

export interface RecordTurn {
  readonly role: Role;
  readonly content: string;
  /** false: an answer that is not learned; it stays in the conversation as context. Default: true. */
  readonly supervised?: boolean | undefined;
  /** What the assistant thought before this answer. */
  readonly thought?: string | undefined;
}

export interface SeedRecord {
  readonly id?: string | number | null | undefined;
  readonly image?: ImageSource | Readonly<Record<string, ImageSource>> | null | undefined;
  readonly video?: VideoSource | Readonly<Record<string, VideoSource>> | null | undefined;
  readonly conversations: readonly RecordTurn[];
}

/** Whether media of a record are by tags, and not a single one. */
export function areByTag<T extends object | string>(
  media: T | Readonly<Record<string, T>>,
): media is Readonly<Record<string, T>> {
  return typeof media === 'object' && !(media instanceof Uint8Array) && !Array.isArray(media);
}

/** The videos of a record, in the order of the data. */
export function videosOf({ video }: Pick<SeedRecord, 'video'>): VideoSource[] {
  if (video === undefined || video === null) return [];
  return areByTag(video) ? Object.values(video) : [video];
}

/** The images of a record, in the order of the data. */
export function imagesOf({ image }: SeedRecord): ImageSource[] {
  if (image === undefined || image === null) return [];
  return typeof image === 'string' || image instanceof Uint8Array ? [image] : Object.values(image);
}

/** The value at a path of keys inside a record. */
function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((inner, key) => (inner as Record<PropertyKey, unknown> | undefined)?.[key], value);
}

/**
 * Checks that a value is a record of the seed form.
 * @throws UserError naming the key, the turn, what was expected and what was there
 */
export function parseRecord(value: unknown): SeedRecord {
  const result = recordSchema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const where = issue.path.length === 0 ? 'a record' : `the key ${issue.path.map(String).join('.')}`;
  const turn = issue.path[0] === 'conversations' && typeof issue.path[1] === 'number' ? { turn: issue.path[1] } : {};
  const what = issue.path.length === 0 ? 'an object' : issue.message;
  throw new UserError(`Expected ${what} for ${where} but received ${shown(valueAt(value, issue.path))}.`, {
    ...turn,
    cure: 'Write records as {"id", "image", "conversations": [{"role": "user", "content"}, {"role": "assistant", "content"}]}.',
  });
}
