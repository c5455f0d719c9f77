/**
 * Places a record's listed images and videos into its text. The n-th `<image>` (or image part) gets the n-th image, the
 * n-th `<video>` the n-th video. The result is the seed form. For the messages and LLaVA forms of forms.ts; the seed form
 * names its media by placeholder and does not come here.
 */
import type { ImageSource, VideoSource } from '@minicpm-finetune/processor';
import { expected, UserError } from '@minicpm-finetune/run';
import { isEmpty, present } from './empty.js';
import { type ImageResolver, isObject } from './images.js';
import { checkPartKeys } from './keys.js';
import type { DataRecord, RecordPlace, Turn } from './record.js';

const PARTS_CURE =
  'Write each part as {"type": "text", "text"}, {"type": "image", "image": path} or {"type": "video", "video": path}.';

/** A kind of media, and those of a record. */
interface Pool<T> {
  readonly word: 'image' | 'video';
  readonly listed: readonly T[];
  /** In the order of their placeholders. */
  readonly placed: T[];
  /** Taken from the list; and brought by a part of the content. */
  taken: number;
  own: number;
}

const poolOf = <T>(word: Pool<T>['word'], listed: readonly T[]): Pool<T> => ({
  word,
  listed,
  placed: [],
  taken: 0,
  own: 0,
});

const tagOf = ({ word }: Pick<Pool<unknown>, 'word'>): string => `<${word}>`;

function placeholder({ word }: Pool<unknown>, index: number): string {
  return `<${word}_${String(index).padStart(2, '0')}>`;
}

/** Gives out the media of one record to the placeholders of its turns. */
export class PlacedMedia {
  readonly #images: Pool<ImageSource>;
  readonly #videos: Pool<VideoSource>;
  readonly #place: RecordPlace;
  readonly #resolver: ImageResolver;

  constructor(
    listed: { readonly images: readonly ImageSource[]; readonly videos: readonly VideoSource[] },
    place: RecordPlace,
    resolver: ImageResolver,
  ) {
    this.#images = poolOf('image', listed.images);
    this.#videos = poolOf('video', listed.videos);
    this.#place = place;
    this.#resolver = resolver;
  }

  /** The text of a turn, its media as `<image_00>`, `<image_01>`, `<video_00>`, … counted through the record. */
  content(value: unknown, turn: number): string {
    if (typeof value === 'string') return this.#text(value, turn);
    if (Array.isArray(value)) return value.map((part, i) => this.#part(part, i, turn)).join('');
    throw expected('text or a list of parts', 'the content of a turn', value, {
      ...this.#place,
      turn,
      cure: 'Write the content as one string.',
    });
  }

  finish(turns: readonly Turn[]): Pick<DataRecord, 'image' | 'video' | 'conversations'> {
    const [images, videos] = [this.#images, this.#videos];
    for (const pool of [images, videos]) this.#checkTaken(pool);
    const single = singleIn(images, turns) ?? undefined;
    const conversations = single ?? turns;
    const singleVideo = singleIn(videos, conversations);
    const video = singleVideo ? videos.placed[0] : byPlaceholder(videos);
    return {
      image: single ? images.placed[0] : byPlaceholder(images),
      ...(video === undefined ? {} : { video }),
      conversations: singleVideo ?? conversations,
    };
  }

  #checkTaken({ word, listed: { length }, taken }: Pool<unknown>): void {
    if (taken === length) return;
    throw new UserError(
      word === 'image'
        ? `Expected one <image> in the text for each of the ${length} images of a record but received ${taken} of them.`
        : `Expected one <video> in the text for each of the ${length} videos of a record but received ${taken} of them.`,
      {
        ...this.#place,
        cure:
          word === 'image'
            ? 'Write <image> where each image belongs, in the order of the list.'
            : 'Write <video> where each video belongs, in the order of the list.',
      },
    );
  }

  #text(value: string, turn: number): string {
    const numbered = /<(?:image|video)_\d+>/u.exec(value)?.[0];
    if (numbered !== undefined) {
      const isImage = numbered.startsWith('<image');
      throw new UserError(
        isImage
          ? `Expected <image> for an image in the text but received ${numbered}.`
          : `Expected <video> for a video in the text but received ${numbered}.`,
        {
          ...this.#place,
          turn,
          cure: isImage
            ? `Numbered placeholders belong to the seed form ("image": {"${numbered}": path}); here write <image>.`
            : `Numbered placeholders belong to the seed form ("video": {"${numbered}": path}); here write <video>.`,
        },
      );
    }
    const text = value.replaceAll(tagOf(this.#images), () => this.#next(this.#images, turn));
    // without videos, the tag is text, or a mistake that is found where special text is
    return this.#videos.listed.length === 0
      ? text
      : text.replaceAll(tagOf(this.#videos), () => this.#next(this.#videos, turn));
  }

  #part(part: unknown, index: number, turn: number): string {
    const place = { ...this.#place, turn };
    const where = `part ${index} of the content`;
    if (!present(part)) return '';
    if (!isObject(part)) throw expected('an object with type', where, part, { ...place, cure: PARTS_CURE });
    checkPartKeys(part, place);
    const own = { image: ownImage(part), video: ownVideo(part) };
    const type = typeOf(part, own);
    if (type !== 'text' && type !== 'image' && type !== 'video') {
      throw expected('text, image, image_url, video or video_url', `the type of part ${index}`, part.type, {
        ...place,
        cure: PARTS_CURE,
      });
    }
    const text = isEmpty(part.text) ? undefined : part.text;
    const others = { text: own.image ?? own.video, image: text ?? own.video, video: text };
    const other = others[type];
    if (type === 'text' && other === undefined) {
      if (!present(part.text)) return '';
      if (typeof part.text === 'string') return this.#text(part.text, turn);
      throw expected('text', where, part.text, { ...place, cure: 'Write it as one string.' });
    }
    if (other !== undefined) {
      const alone = { text: 'nothing but text', image: 'nothing but an image', video: 'nothing but a video' }[type];
      throw expected(alone, where, other, { ...place, cure: 'Write text, images and videos as parts of their own.' });
    }
    if (type === 'video') {
      if (own.video === undefined) return this.#next(this.#videos, turn);
      this.#videos.own++;
      return this.#add(this.#videos, this.#resolver.resolveVideo(own.video, where, place), turn);
    }
    if (own.image === undefined) return this.#next(this.#images, turn);
    this.#images.own++;
    return this.#add(this.#images, this.#resolver.resolve(own.image, where, place), turn);
  }

  #next<T>(pool: Pool<T>, turn: number): string {
    const { word, listed, taken } = pool;
    const source = listed[taken];
    if (source === undefined) {
      const asked = taken + 1;
      throw new UserError(
        word === 'image'
          ? `Expected an image for every <image> of the text but received ${listed.length} image${listed.length === 1 ? '' : 's'} for at least ${asked} of them.`
          : `Expected a video for every <video> of the text but received ${listed.length} video${listed.length === 1 ? '' : 's'} for at least ${asked} of them.`,
        {
          ...this.#place,
          turn,
          cure:
            word === 'image'
              ? "Add the missing image to the record's list or remove the <image>."
              : "Add the missing video to the record's list or remove the <video>.",
        },
      );
    }
    pool.taken++;
    return this.#add(pool, source, turn);
  }

  #add<T>(pool: Pool<T>, source: T, turn: number): string {
    if (pool.own > 0 && pool.taken > 0) {
      throw new UserError(
        pool.word === 'image'
          ? 'Expected images in the list of the record or in the parts of the content but received both.'
          : 'Expected videos in the list of the record or in the parts of the content but received both.',
        { ...this.#place, turn, cure: 'Put all of them into one of the two.' },
      );
    }
    pool.placed.push(source);
    return placeholder(pool, pool.placed.length - 1);
  }
}

/** The turns with the tag of a single medium, where its placeholder is in the first user turn; else null. */
function singleIn(pool: Pool<unknown>, turns: readonly Turn[]): readonly Turn[] | null {
  const firstUser = turns.findIndex(({ role }) => role === 'user');
  const mark = placeholder(pool, 0);
  if (pool.placed.length !== 1 || !turns[firstUser]?.content.includes(mark)) return null;
  return turns.map((turn, i) =>
    i === firstUser ? { ...turn, content: turn.content.replace(mark, tagOf(pool)) } : turn,
  );
}

function byPlaceholder<T>(pool: Pool<T>): Readonly<Record<string, T>> | undefined {
  if (pool.placed.length === 0) return undefined;
  return Object.fromEntries(pool.placed.map((source, i) => [placeholder(pool, i), source]));
}

/** What a part is, by its type or else by what it has. */
function typeOf(part: Readonly<Record<string, unknown>>, own: { image: unknown; video: unknown }): unknown {
  if (part.type === 'image_url') return 'image';
  if (part.type === 'video_url') return 'video';
  if (present(part.type)) return part.type;
  if (present(part.text)) return 'text';
  return own.video !== undefined ? 'video' : own.image !== undefined ? 'image' : undefined;
}

/** The image that a part brings with it, or undefined. */
function ownImage(part: Readonly<Record<string, unknown>>): unknown {
  if (part.type === 'video' || part.type === 'video_url') return undefined;
  const url = isObject(part.image_url) ? part.image_url.url : part.image_url;
  return [part.image, url, part.url, part.path, part.bytes].find(present);
}

/** The video that a part brings with it, or undefined. */
function ownVideo(part: Readonly<Record<string, unknown>>): unknown {
  const url = isObject(part.video_url) ? part.video_url.url : part.video_url;
  const named = [part.video, url].find(present);
  if (named !== undefined || (part.type !== 'video' && part.type !== 'video_url')) return named;
  return [part.url, part.path].find(present);
}

/** Whether a turn's content has a part with an image or a video of its own. */
export function hasOwnMedia(content: unknown): boolean {
  return (
    Array.isArray(content) &&
    content.some((part) => isObject(part) && (ownImage(part) !== undefined || ownVideo(part) !== undefined))
  );
}
