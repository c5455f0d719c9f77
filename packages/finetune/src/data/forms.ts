/**
 * The three forms of records, converted to one. The result is record.ts:
 *
 *   seed      {"id", "image": path | {"<image_00>": path, …}, "conversations": [{"role", "content"}]}      the official MiniCPM-V scripts
 *   messages  {"messages": [{"role", "content": text with <image> | parts}], "images": [path, …]}          OpenAI, TRL, LLaMA-Factory
 *   llava     {"image": path | [path, …], "conversations": [{"from": "human" | "gpt", "value"}]}           LLaVA, ShareGPT
 *
 * Each record has its own form. Checks what a record looks like; what a conversation may say (whose turn it is, special
 * tokens, placeholders of the seed form) is checked where it is encoded.
 */
import type { ImageSource } from '@minicpm-finetune/processor';
import { expected, shownNames, UserError } from '@minicpm-finetune/run';
import { answersProblem, comparedOf } from './compared.js';
import { present } from './empty.js';
import { type ImageResolver, isObject } from './images.js';
import { checkRecordKeys, checkTurnKeys } from './keys.js';
import { learnedTurns } from './marks.js';
import { hasOwnImage, PlacedImages } from './placed-images.js';
import type { DataRecord, RecordPlace, Turn } from './record.js';
import { keyNames, styleOfTurns, type TurnStyle, turnRole } from './turns.js';

export type RecordForm = 'seed' | 'messages' | 'llava';

export const FORM_NAMES: Readonly<Record<RecordForm, string>> = {
  seed: 'the seed form (conversations with role and content)',
  messages: 'the messages form (messages with role and content)',
  llava: 'the LLaVA form (conversations with from and value)',
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
export function recognizeForm(raw: unknown, place: RecordPlace): RecordForm {
  return recognize(comparedOf(raw, place)?.chosen ?? raw, place).form;
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
  const unread = checkRecordKeys(record, turns, hasPictures(record, turns), place);
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

function hasPictures({ image, images }: Keys, turns: readonly Keys[]): boolean {
  return hasEntry(image) || hasEntry(images) || turns.some(({ content, value }) => hasOwnImage(content ?? value));
}

/** Whether the value of an image key is more than null, a list of nulls, or an object without keys. */
function hasEntry(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(present);
  return isObject(value) ? Object.keys(value).length > 0 : present(value);
}

type Conversation = Pick<DataRecord, 'image' | 'conversations'>;

function conversation(written: Written, place: RecordPlace, resolver: ImageResolver): Conversation {
  const { record, form } = written;
  if (hasEntry(record.image) && hasEntry(record.images)) {
    throw new UserError('Expected image or images for a record but received both.', {
      ...place,
      cure: 'Put all paths into images.',
    });
  }
  const value = [record.image, record.images].find(hasEntry);
  const list = Array.isArray(value) ? value.filter(present) : undefined;
  if (form !== 'seed') return listed(written, list ?? (value === undefined ? [] : [value]), place, resolver);
  if (list !== undefined && list.length > 1) return listed(written, list, place, resolver);
  const image = seedImage(list === undefined ? value : list[0], place, resolver);
  return { image, conversations: spoken(written, place, seedContent(place)) };
}

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
    return { role, content, ...(role === 'assistant' && !learned[index] ? { supervised: false } : {}) };
  });
  return [...front, ...rest];
}

function seedContent(place: RecordPlace): (value: unknown, turn: number) => string {
  return (value, turn) => {
    if (typeof value === 'string') return value;
    throw expected('text', 'the content of a turn', value, { ...place, turn, cure: 'Write content as one string.' });
  };
}

function seedImage(value: unknown, place: RecordPlace, resolver: ImageResolver): DataRecord['image'] {
  if (!present(value)) return undefined;
  const single =
    typeof value === 'string' ||
    value instanceof Uint8Array ||
    (isObject(value) && ('bytes' in value || 'path' in value));
  if (single) return resolver.resolve(value, 'the key image', place);
  if (!isObject(value)) {
    throw expected('a path, or an object of placeholders and paths', 'the key image', value, {
      ...place,
      cure: 'Several images are written {"<image_00>": path, "<image_01>": path}, with the placeholders in the text.',
    });
  }
  const entries = Object.entries(value).filter(([, source]) => present(source));
  if (entries.length === 0) return undefined;
  const resolved = entries.map(([tag, source]): [string, ImageSource] => [
    tag,
    resolver.resolve(source, `the image ${shownNames([tag])}`, place),
  ]);
  return Object.fromEntries(resolved);
}

/** Images in a list, taken by the `<image>`s of the text (or image parts) in order. */
function listed(
  written: Written,
  images: readonly unknown[],
  place: RecordPlace,
  resolver: ImageResolver,
): Conversation {
  const sources = images.map((value, i) => resolver.resolve(value, `image ${i}`, place));
  const placed = new PlacedImages(sources, place, resolver);
  return placed.finish(spoken(written, place, (value, turn) => placed.content(value, turn)));
}
