/**
 * The three forms of records, converted to one. The result is record.ts:
 *
 *   seed      {"id", "image": path | {"<image_00>": path, …}, "conversations": [{"role", "content"}]}      the official MiniCPM-V scripts
 *   messages  {"messages": [{"role", "content": text with <image> | parts}], "images": [path, …]}          OpenAI, TRL, LLaMA-Factory
 *   llava     {"image": path | [path, …], "conversations": [{"from": "human" | "gpt", "value"}]}           LLaVA, ShareGPT
 *
 * Videos are written as images are, under `video` or `videos` and with `<video>`; an entry may be a list of frames.
 * Each record has its own form. Checks what a record looks like; what a conversation may say (whose turn it is, special
 * tokens, placeholders of the seed form) is checked where it is encoded.
 */
import type { ImageSource, VideoSource } from '@minicpm-finetune/processor';
import { expected, shownNames, UserError } from '@minicpm-finetune/run';
import { answersProblem, comparedOf } from './compared.js';
import { isEmpty, present } from './empty.js';
import { type ImageResolver, isObject } from './images.js';
import { checkRecordKeys, checkTurnKeys } from './keys.js';
import { learnedTurns } from './marks.js';
import { hasOwnMedia, PlacedMedia } from './placed-media.js';
import type { DataRecord, RecordPlace, Turn } from './record.js';
import { keyNames, styleOfTurns, type TurnStyle, turnRole } from './turns.js';

type RecordForm = 'seed' | 'messages' | 'llava';

const FORM_NAMES: Readonly<Record<RecordForm, string>> = {
  seed: 'the seed form (conversations with role and content)',
  messages: 'the messages form (messages with role and content)',
  llava: 'the LLaVA form (conversations with from and value)',
};

/** How the first record of a file is written. */
export const FIRST_FORM_NAMES: Readonly<Record<RecordForm | 'answers', string>> = {
  ...FORM_NAMES,
  answers: 'a form of answers to compare (without messages or conversations)',
};

const FORMS_CURE = `Use one of ${Object.values(FORM_NAMES).join(', ')}.`;

type Keys = Readonly<Record<string, unknown>>;

/** A record as it is written: the turns are objects of one style. */
interface Written {
  readonly record: Keys;
  readonly form: RecordForm;
  readonly style: TurnStyle;
  readonly turns: readonly Keys[];
}

/** Recognises how `raw` is written. Throws UserError if it is none of the forms or two of them at once. */
export function recognizeForm(raw: unknown, place: RecordPlace): RecordForm | 'answers' {
  const compared = comparedOf(raw, place);
  const { form } = recognize(compared?.chosen ?? raw, place);
  return compared !== null && isObject(raw) && isEmpty(raw.messages) && isEmpty(raw.conversations) ? 'answers' : form;
}

function recognize(raw: unknown, place: RecordPlace): Written {
  if (!isObject(raw)) throw expected('an object', 'a record', raw, { ...place, cure: FORMS_CURE });
  const { key, turns } = writtenTurns(raw, place);
  const style = styleOfTurns(turns, place, FORMS_CURE);
  if (style === 'from' && key === 'messages') {
    throw new UserError('Expected role and content for the turns of messages but received from and value.', {
      ...place,
      cure: 'Rename messages to conversations (the LLaVA form) or the keys of the turns.',
    });
  }
  const form = key === 'messages' ? 'messages' : style === 'role' ? 'seed' : 'llava';
  return { record: raw, form, style, turns: turns as Keys[] };
}

/** The list of turns and its key. An empty list beside the other one is absent. */
function writtenTurns(raw: Keys, place: RecordPlace): { key: 'messages' | 'conversations'; turns: unknown[] } {
  const there = (['messages', 'conversations'] as const).filter((key) => present(raw[key]));
  const filled = there.filter((key) => !(Array.isArray(raw[key]) && raw[key].length === 0));
  if (filled.length === 2) {
    throw new UserError('Expected conversations or messages for a record but received both.', {
      ...place,
      cure: `Remove one of them. ${FORMS_CURE}`,
    });
  }
  const key = filled[0] ?? there[0];
  if (key === undefined) throw withoutTurns(raw, place);
  const turns = raw[key];
  if (!Array.isArray(turns)) throw expected('a list of turns', `the key ${key}`, turns, { ...place, cure: FORMS_CURE });
  if (turns.length > 0) return { key, turns };
  throw new UserError(`Expected at least a user and an assistant turn for the key ${key} but received an empty list.`, {
    ...place,
    cure: 'Remove the record or add its turns.',
  });
}

function withoutTurns(raw: Keys, place: RecordPlace): UserError {
  const empty = ['conversations', 'messages'].find((key) => Object.hasOwn(raw, key));
  if (empty !== undefined) {
    const cure = 'Add its turns, or remove the record.';
    return expected('a list of turns', `the key ${empty} of a record`, raw[empty], { ...place, cure });
  }
  const near = Object.keys(raw).find((key) => /^(?:conversation|message|dialog|dialogue)s?$/iu.test(key));
  return new UserError(`Expected the key conversations or messages for a record but received ${keyNames(raw)}.`, {
    ...place,
    cure: near === undefined ? FORMS_CURE : `Rename ${near} to conversations or messages. ${FORMS_CURE}`,
  });
}

/** A checked record. Images are resolved by `resolver`. Throws UserError with file, record and turn. */
export function normalizeRecord(raw: unknown, place: RecordPlace, resolver: ImageResolver): DataRecord {
  const compared = comparedOf(raw, place);
  if (compared === null) return normalizeOne(raw, place, resolver);
  const { chosen, rejected, key: comparedKey, label } = compared;
  const record = { ...normalizeOne(chosen, place, resolver), comparedKey };
  if (rejected === null) return label === undefined ? record : { ...record, desirable: label };
  const other = normalizeOne(rejected, place, resolver);
  const image = sameImages(record.image, other.image) ? record.image : other.image;
  const answers = [record, other].map(({ conversations }) => conversations.at(-1)!.content) as [string, string];
  const differs =
    image !== record.image || JSON.stringify(record.conversations) !== JSON.stringify(other.conversations);
  const problem = answersProblem(answers, differs, place);
  if (problem !== null) throw problem;
  return { ...record, rejected: { image, conversations: other.conversations } };
}

function sameImages(a: DataRecord['image'], b: DataRecord['image']): boolean {
  const listed = (image: DataRecord['image']): unknown[] =>
    isObject(image) && !(image instanceof Uint8Array) ? Object.entries(image).flat() : [image];
  const [first, second] = [listed(a), listed(b)];
  return first.length === second.length && first.every((one, i) => one === second[i] || sameBytes(one, second[i]));
}

const sameBytes = (a: unknown, b: unknown): boolean =>
  a instanceof Uint8Array && b instanceof Uint8Array && Buffer.compare(a, b) === 0;

/** A record of one conversation. */
function normalizeOne(raw: unknown, place: RecordPlace, resolver: ImageResolver): DataRecord {
  const written = recognize(raw, place);
  const { record, turns } = written;
  for (const [index, turn] of turns.entries()) checkTurnKeys(turn, { ...place, turn: index });
  const unread = checkRecordKeys(record, turns, hasMedia(record, turns), place);
  return {
    id: recordId(record.id, place),
    ...conversation(written, place, resolver),
    ...(hasSystem(record) ? { systemKey: true } : {}),
    ...(unread.length > 0 ? { unread } : {}),
  };
}

function recordId(id: unknown, place: RecordPlace): string | undefined {
  if (!present(id)) return undefined;
  if (typeof id === 'string' || typeof id === 'number' || typeof id === 'bigint') return String(id);
  throw expected('text or a number', 'the key id', id, {
    ...place,
    cure: 'Write text or a number, or leave the key out.',
  });
}

function hasSystem({ system }: Keys): boolean {
  return present(system) && system !== '';
}

function hasMedia({ image, images, video, videos }: Keys, turns: readonly Keys[]): boolean {
  return (
    [image, images, video, videos].some(hasEntry) || turns.some(({ content, value }) => hasOwnMedia(content ?? value))
  );
}

/** Whether the value of an image key is more than null, a list of nulls, or an object without keys. */
function hasEntry(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(present);
  return isObject(value) ? Object.keys(value).length > 0 : present(value);
}

type Conversation = Pick<DataRecord, 'image' | 'video' | 'conversations'>;

function conversation(written: Written, place: RecordPlace, resolver: ImageResolver): Conversation {
  const { record, form } = written;
  const images = writtenMedia(record, 'image', place);
  const videos = writtenMedia(record, 'video', place);
  if (form !== 'seed' || (images.list?.length ?? 0) > 1 || (videos.list?.length ?? 0) > 1)
    return listed(written, { images: entriesOf(images), videos: entriesOf(videos) }, place, resolver);
  const image = seedMedia('image', soleOf(images), place, (...words) => resolver.resolve(...words, place));
  const video = seedMedia('video', soleOf(videos), place, (...words) => resolver.resolveVideo(...words, place));
  return {
    image,
    ...(video === undefined ? {} : { video }),
    conversations: spoken(written, place, seedContent(place)),
  };
}

/** What a record has under `image` or `images` (or for videos): a list of it, if it is one. */
interface WrittenMedia {
  readonly value: unknown;
  readonly list: readonly unknown[] | undefined;
}

function writtenMedia(record: Keys, word: 'image' | 'video', place: RecordPlace): WrittenMedia {
  const both = [record[word], record[`${word}s`]].filter(hasEntry);
  if (both.length === 2) {
    throw word === 'image'
      ? new UserError('Expected image or images for a record but received both.', {
          ...place,
          cure: 'Put all paths into images.',
        })
      : new UserError('Expected video or videos for a record but received both.', {
          ...place,
          cure: 'Put all paths into videos.',
        });
  }
  return { value: both[0], list: Array.isArray(both[0]) ? both[0].filter(present) : undefined };
}

const entriesOf = ({ value, list }: WrittenMedia): readonly unknown[] => list ?? (value === undefined ? [] : [value]);

const soleOf = ({ value, list }: WrittenMedia): unknown => (list === undefined ? value : list[0]);

/** The turns, with the key system in front and the answers that are not learned marked. */
function spoken(
  { record, style, turns }: Written,
  place: RecordPlace,
  contentOf: (value: unknown, turn: number) => string,
): Turn[] {
  const { system } = record;
  if (present(system) && typeof system !== 'string') {
    throw expected('text', 'the key system', system, { ...place, cure: 'Write the system prompt as one string.' });
  }
  const front: Turn[] = hasSystem(record) ? [{ role: 'system', content: system as string }] : [];
  const learned = learnedTurns(record, turns, place);
  const rest = turns.map((turn, index): Turn => {
    const role = turnRole(turn, index, style, place);
    if (role === 'system' && front.length > 0) {
      throw new UserError('Expected one system prompt for a record but received the key system and a system turn.', {
        ...place,
        turn: index,
        cure: 'Remove one of them.',
      });
    }
    const content = contentOf(style === 'role' ? turn.content : turn.value, index);
    const thought = thoughtOf(turn, role, { ...place, turn: index });
    return {
      role,
      content,
      ...(role === 'assistant' && !learned[index] ? { supervised: false } : {}),
      ...(thought === undefined ? {} : { thought }),
    };
  });
  return [...front, ...rest];
}

/** What the assistant thought before an answer. */
function thoughtOf(turn: Keys, role: Turn['role'], place: RecordPlace & { turn: number }): string | undefined {
  const { reasoning_content: thought } = turn;
  if (isEmpty(thought)) return undefined;
  const key = 'reasoning_content';
  if (typeof thought !== 'string')
    throw expected('text', `the key ${key} of a turn`, thought, { ...place, key, cure: 'Write it as one string.' });
  if (role === 'assistant') return thought;
  throw new UserError(
    `Expected a thought before an answer of the assistant but received ${key} in the turn of ${role}.`,
    {
      ...place,
      key,
      cure: 'Move it to the turn of the answer, or remove it.',
    },
  );
}

function seedContent(place: RecordPlace): (value: unknown, turn: number) => string {
  return (value, turn) => {
    if (typeof value === 'string') return value;
    throw expected('text', 'the content of a turn', value, { ...place, turn, cure: 'Write content as one string.' });
  };
}

function seedMedia<T extends ImageSource | VideoSource>(
  word: 'image' | 'video',
  value: unknown,
  place: RecordPlace,
  resolve: (value: unknown, where: string) => T,
): T | Readonly<Record<string, T>> | undefined {
  if (!present(value)) return undefined;
  const single =
    typeof value === 'string' ||
    value instanceof Uint8Array ||
    (word === 'video' && Array.isArray(value)) ||
    (isObject(value) && ('bytes' in value || 'path' in value));
  if (single) return resolve(value, `the key ${word}`);
  if (!isObject(value)) {
    throw expected('a path, or an object of placeholders and paths', `the key ${word}`, value, {
      ...place,
      cure:
        word === 'image'
          ? 'Several images are written {"<image_00>": path, "<image_01>": path}, with the placeholders in the text.'
          : 'Several videos are written {"<video_00>": path, "<video_01>": path}, with the placeholders in the text.',
    });
  }
  const entries = Object.entries(value).filter(([, source]) => present(source));
  if (entries.length === 0) return undefined;
  return Object.fromEntries(
    entries.map(([tag, source]): [string, T] => [
      tag,
      resolve(source, word === 'image' ? `the image ${shownNames([tag])}` : `the video ${shownNames([tag])}`),
    ]),
  );
}

/** Media in lists, taken by the `<image>`s and `<video>`s of the text (or parts of it) in order. */
function listed(
  written: Written,
  media: { readonly images: readonly unknown[]; readonly videos: readonly unknown[] },
  place: RecordPlace,
  resolver: ImageResolver,
): Conversation {
  const images = media.images.map((value, i) => resolver.resolve(value, `image ${i}`, place));
  const videos = media.videos.map((value, i) => resolver.resolveVideo(value, `video ${i}`, place));
  const placed = new PlacedMedia({ images, videos }, place, resolver);
  return placed.finish(spoken(written, place, (value, turn) => placed.content(value, turn)));
}
