/**
 * Places a record's listed images into its text. The n-th `<image>` (or image part) gets the n-th image. The result is
 * the seed form. For the messages and LLaVA forms of forms.ts; the seed form names its images by placeholder and does
 * not come here.
 */
import type { ImageSource } from '@minicpm-finetune/processor';
import { expected, UserError } from '@minicpm-finetune/run';
import { isEmpty, present } from './empty.js';
import { type ImageResolver, isObject } from './images.js';
import { checkPartKeys } from './keys.js';
import type { DataRecord, RecordPlace, Turn } from './record.js';

const TAG = '<image>';
const PARTS_CURE = 'Write each part as {"type": "text", "text"} or {"type": "image", "image": path}.';

/** Gives out the images of one record to the placeholders of its turns. */
export class PlacedImages {
  readonly #sources: ImageSource[] = [];
  #taken = 0;
  #own = 0;

  readonly #listed: readonly ImageSource[];
  readonly #place: RecordPlace;
  readonly #resolver: ImageResolver;

  constructor(listed: readonly ImageSource[], place: RecordPlace, resolver: ImageResolver) {
    this.#listed = listed;
    this.#place = place;
    this.#resolver = resolver;
  }

  /** The text of a turn, its images as `<image_00>`, `<image_01>`, … counted through the record. */
  content(value: unknown, turn: number): string {
    if (typeof value === 'string') return this.#text(value, turn);
    if (Array.isArray(value)) return value.map((part, i) => this.#part(part, i, turn)).join('');
    throw expected('text or a list of parts', 'the content of a turn', value, {
      ...this.#place,
      turn,
      cure: 'Write the content as one string.',
    });
  }

  finish(turns: readonly Turn[]): Omit<DataRecord, 'id'> {
    if (this.#taken !== this.#listed.length) {
      throw new UserError(
        `Expected one ${TAG} in the text for each of the ${this.#listed.length} images of a record but received ${this.#taken} of them.`,
        {
          ...this.#place,
          cure: `Write ${TAG} where each image belongs, in the order of the list.`,
        },
      );
    }
    if (this.#sources.length === 0) return { image: undefined, conversations: turns };
    const firstUser = turns.findIndex(({ role }) => role === 'user');
    if (this.#sources.length === 1 && turns[firstUser]?.content.includes(placeholder(0))) {
      const conversations = turns.map((turn, i) =>
        i === firstUser ? { ...turn, content: turn.content.replace(placeholder(0), TAG) } : turn,
      );
      return { image: this.#sources[0]!, conversations };
    }
    return {
      image: Object.fromEntries(this.#sources.map((source, i) => [placeholder(i), source])),
      conversations: turns,
    };
  }

  #text(value: string, turn: number): string {
    const numbered = /<image_\d+>/u.exec(value)?.[0];
    if (numbered !== undefined) {
      throw new UserError(`Expected ${TAG} for an image in the text but received ${numbered}.`, {
        ...this.#place,
        turn,
        cure: `Numbered placeholders belong to the seed form ("image": {"${numbered}": path}); here write ${TAG}.`,
      });
    }
    return value.replaceAll(TAG, () => this.#next(turn));
  }

  #part(part: unknown, index: number, turn: number): string {
    const place = { ...this.#place, turn };
    if (!present(part)) return '';
    if (!isObject(part)) {
      throw expected('an object with type', `part ${index} of the content`, part, { ...place, cure: PARTS_CURE });
    }
    checkPartKeys(part, place);
    const type = part.type ?? (present(part.text) ? 'text' : ownImage(part) === undefined ? undefined : 'image');
    const other = type === 'text' ? ownImage(part) : isEmpty(part.text) ? undefined : part.text;
    if (type === 'text' && other === undefined) {
      if (!present(part.text)) return '';
      if (typeof part.text === 'string') return this.#text(part.text, turn);
      throw expected('text', `part ${index} of the content`, part.text, { ...place, cure: 'Write it as one string.' });
    }
    if (type !== 'text' && type !== 'image' && type !== 'image_url') {
      throw expected('text, image or image_url', `the type of part ${index}`, type, {
        ...place,
        cure: PARTS_CURE,
      });
    }
    if (other !== undefined) {
      throw expected(`nothing but ${type === 'text' ? 'text' : 'an image'}`, `part ${index} of the content`, other, {
        ...place,
        cure: 'Write text and image as two parts.',
      });
    }
    const source = ownImage(part);
    if (source === undefined) return this.#next(turn);
    this.#own++;
    return this.#add(this.#resolver.resolve(source, `part ${index} of the content`, place), turn);
  }

  #next(turn: number): string {
    const source = this.#listed[this.#taken];
    if (source === undefined) {
      throw new UserError(
        `Expected an image for every ${TAG} of the text but received ${this.#listed.length} image${this.#listed.length === 1 ? '' : 's'} for at least ${this.#taken + 1} of them.`,
        {
          ...this.#place,
          turn,
          cure: `Add the missing image to the record's list or remove the ${TAG}.`,
        },
      );
    }
    this.#taken++;
    return this.#add(source, turn);
  }

  #add(source: ImageSource, turn: number): string {
    if (this.#own > 0 && this.#taken > 0) {
      throw new UserError(
        'Expected images in the list of the record or in the parts of the content but received both.',
        { ...this.#place, turn, cure: 'Put all of them into one of the two.' },
      );
    }
    this.#sources.push(source);
    return placeholder(this.#sources.length - 1);
  }
}

/** The image that a part brings with it, or undefined. */
function ownImage(part: Readonly<Record<string, unknown>>): unknown {
  const url = isObject(part.image_url) ? part.image_url.url : part.image_url;
  return [part.image, url, part.url, part.path, part.bytes].find(present);
}

/** Whether a turn's content has a part with an image of its own. */
export function hasOwnImage(content: unknown): boolean {
  return Array.isArray(content) && content.some((part) => isObject(part) && ownImage(part) !== undefined);
}

function placeholder(index: number): string {
  return `<image_${String(index).padStart(2, '0')}>`;
}
