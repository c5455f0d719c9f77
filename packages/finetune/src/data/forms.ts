/**
 * The three forms of records, converted to one. The result is record.ts:
 *
 *   seed      {"id", "image": path | {"<image_00>": path, …}, "conversations": [{"role", "content"}]}      the official MiniCPM-V scripts
 *   messages  {"messages": [{"role", "content": text with <image> | parts}], "images": [path, …]}          OpenAI, TRL, LLaMA-Factory
 *   llava     {"image": path | [path, …], "conversations": [{"from": "human" | "gpt", "value"}]}           LLaVA, ShareGPT
 *
 * The form of a file's first record is the form of the file. Checks what a record looks like; what a conversation may say (whose turn it is,
 * special tokens, placeholders of the seed form) is checked where it is encoded.
 */
import { expected, shown, shownNames, UserError } from '@minicpm-finetune/run';
import { type ImageResolver, isObject } from './images.js';
import { PlacedImages } from './placed-images.js';
import type { DataRecord, RecordPlace, Turn } from './record.js';

export type RecordForm = 'seed' | 'messages' | 'llava';

export const FORM_NAMES: Readonly<Record<RecordForm, string>> = {
  seed: 'the seed form (conversations with role and content)',
  messages: 'the messages form (messages with role and content)',
  llava: 'the LLaVA form (conversations with from and value)',
};

const FORMS_CURE = `Use one of ${Object.values(FORM_NAMES).join(', ')}.`;

/** Keys of other modalities, which these models cannot be trained on here: refused rather than ignored. */
const OTHER_MEDIA = ['video', 'videos', 'audio', 'audios'] as const;

/** Recognises how `raw` is written. Throws UserError if it is none of the forms or two of them at once. */
export function recognizeForm(raw: unknown, place: RecordPlace): RecordForm {
  if (!isObject(raw)) throw expected('an object', 'a record', raw, { ...place, cure: FORMS_CURE });
  const { conversations, messages } = raw;
  if (present(conversations) && present(messages)) {
    throw new UserError('Expected conversations or messages for a record but received both.', {
      ...place,
      cure: `Remove one of them. ${FORMS_CURE}`,
    });
  }
  const key = present(messages) ? 'messages' : 'conversations';
  const turns = raw[key];
  if (!present(turns)) {
    throw new UserError(`Expected the key conversations or messages for a record but received ${keys(raw)}.`, {
      ...place,
      cure: FORMS_CURE,
    });
  }
  if (!Array.isArray(turns)) throw expected('a list of turns', `the key ${key}`, turns, { ...place, cure: FORMS_CURE });
  if (turns.length === 0)
    throw new UserError(
      `Expected at least a user and an assistant turn for the key ${key} but received an empty list.`,
      { ...place, cure: 'Remove the record or add its turns.' },
    );
  const styles = turns.map((turn, index) => turnStyle(turn, { ...place, turn: index }));
  const other = styles.findIndex((style) => style !== styles[0]);
  if (other !== -1) {
    throw new UserError(
      `Expected ${STYLE_KEYS[styles[0]!]} for every turn as in turn 0 but received ${STYLE_KEYS[styles[other]!]}.`,
      {
        ...place,
        turn: other,
        cure: 'Write all turns of a file in one form.',
      },
    );
  }
  if (styles[0] === 'role') return key === 'messages' ? 'messages' : 'seed';
  if (key === 'conversations') return 'llava';
  throw new UserError('Expected role and content for the turns of messages but received from and value.', {
    ...place,
    cure: 'Rename messages to conversations (the LLaVA form) or the keys of the turns.',
  });
}

/** A checked record. `form` is the form of the file; images are resolved by `resolver`. Throws UserError with file, record and turn. */
export function normalizeRecord(
  raw: unknown,
  form: RecordForm,
  place: RecordPlace,
  resolver: ImageResolver,
): DataRecord {
  const own = recognizeForm(raw, place);
  if (own !== form) {
    throw new UserError(`Expected ${FORM_NAMES[form]} as in the file's first record but received ${FORM_NAMES[own]}.`, {
      ...place,
      cure: 'Split the file by form and give both files to --data_path.',
    });
  }
  const record = raw as Record<string, unknown>;
  for (const key of OTHER_MEDIA) {
    const media = record[key];
    if (present(media) && !(Array.isArray(media) && media.length === 0)) {
      throw new UserError(`Expected text and images only for a record but received ${key}: ${shown(media)}.`, {
        ...place,
        cure: `Remove ${key} or the record.`,
      });
    }
  }
  const id = recordId(record.id, place);
  if (form === 'seed') return { id, ...seedRecord(record, place, resolver) };
  return { id, ...listedRecord(record, form, place, resolver) };
}

function recordId(id: unknown, place: RecordPlace): string | undefined {
  if (!present(id)) return undefined;
  if (typeof id === 'string' || typeof id === 'number' || typeof id === 'bigint') return String(id);
  throw expected('text or a number', 'the key id', id, {
    ...place,
    cure: 'Write text or a number, or leave the key out.',
  });
}

/** null and undefined both mean absent: parquet and pandas write null for missing keys. */
function present(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function keys(record: Record<string, unknown>): string {
  const names = Object.keys(record);
  return names.length === 0 ? 'an empty object' : `the keys ${shownNames(names)}`;
}

const STYLE_KEYS = { role: 'role and content', from: 'from and value' } as const;

function turnStyle(turn: unknown, place: RecordPlace & { turn: number }): 'role' | 'from' {
  if (!isObject(turn))
    throw expected('an object with role and content', 'a turn', turn, { ...place, cure: FORMS_CURE });
  const role = 'role' in turn || 'content' in turn;
  const from = 'from' in turn || 'value' in turn;
  if (role && from)
    throw new UserError(`Expected role and content, or from and value, for a turn but received ${keys(turn)}.`, {
      ...place,
      cure: FORMS_CURE,
    });
  if (!role && !from)
    throw new UserError(`Expected role and content for a turn but received ${keys(turn)}.`, {
      ...place,
      cure: FORMS_CURE,
    });
  return role ? 'role' : 'from';
}

const ROLES: Readonly<Record<string, Turn['role']>> = { system: 'system', user: 'user', assistant: 'assistant' };
const LLAVA_ROLES: Readonly<Record<string, Turn['role']>> = { ...ROLES, human: 'user', gpt: 'assistant' };

function turnRole(value: unknown, index: number, form: RecordForm, place: RecordPlace): Turn['role'] {
  const roles = form === 'llava' ? LLAVA_ROLES : ROLES;
  const role = typeof value === 'string' && Object.hasOwn(roles, value) ? roles[value] : undefined;
  const key = form === 'llava' ? 'from' : 'role';
  if (role === undefined) {
    const names = form === 'llava' ? 'human or gpt (or system first)' : 'user or assistant (or system first)';
    throw expected(names, `the key ${key} of a turn`, value, {
      ...place,
      turn: index,
      cure: 'Rename the role, or put what it says into a user turn.',
    });
  }
  if (role === 'system' && index > 0) {
    throw expected('user or assistant', `the key ${key} of a turn after the first`, value, {
      ...place,
      turn: index,
      cure: 'Move the system turn to the front of the conversation.',
    });
  }
  return role;
}

function seedRecord(
  record: Record<string, unknown>,
  place: RecordPlace,
  resolver: ImageResolver,
): Omit<DataRecord, 'id'> {
  if (present(record.images)) {
    throw new UserError('Expected the key image beside conversations with role and content but received images.', {
      ...place,
      cure: 'Rename conversations to messages (then every image needs its <image> in the text), or write image: {"<image_00>": path, …}.',
    });
  }
  const conversations = (record.conversations as Record<string, unknown>[]).map((turn, index) => {
    if (typeof turn.content !== 'string')
      throw expected('text', 'the content of a turn', turn.content, {
        ...place,
        turn: index,
        cure: 'Write content as one string.',
      });
    return { role: turnRole(turn.role, index, 'seed', place), content: turn.content };
  });
  return { image: seedImage(record.image, place, resolver), conversations };
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
  const entries = Object.entries(value);
  if (entries.length === 0) return undefined;
  return Object.fromEntries(
    entries.map(([tag, source]) => [tag, resolver.resolve(source, `the image ${shownNames([tag])}`, place)]),
  );
}

/** The messages and LLaVA forms: images in a list, taken by the `<image>`s of the text (or image parts) in order. */
function listedRecord(
  record: Record<string, unknown>,
  form: 'messages' | 'llava',
  place: RecordPlace,
  resolver: ImageResolver,
): Omit<DataRecord, 'id'> {
  const listed = imageList(record, place).map((value, i) => resolver.resolve(value, `image ${i}`, place));
  const placed = new PlacedImages(listed, place, resolver);
  const turns: Turn[] = [];
  if (present(record.system) && record.system !== '') {
    if (typeof record.system !== 'string') throw expected('text', 'the key system', record.system, { ...place });
    turns.push({ role: 'system', content: record.system });
  }
  const written = (form === 'messages' ? record.messages : record.conversations) as Record<string, unknown>[];
  for (const [index, turn] of written.entries()) {
    const role = turnRole(form === 'messages' ? turn.role : turn.from, index, form, place);
    if (role === 'system' && turns.length > 0)
      throw new UserError('Expected one system prompt for a record but received the key system and a system turn.', {
        ...place,
        turn: index,
        cure: 'Remove one of them.',
      });
    turns.push({ role, content: placed.content(form === 'messages' ? turn.content : turn.value, index) });
  }
  return placed.finish(turns);
}

function imageList(record: Record<string, unknown>, place: RecordPlace): unknown[] {
  if (present(record.image) && present(record.images)) {
    throw new UserError('Expected image or images for a record but received both.', {
      ...place,
      cure: 'Put all paths into images.',
    });
  }
  const value = record.images ?? record.image;
  if (!present(value)) return [];
  return Array.isArray(value) ? value : [value];
}
