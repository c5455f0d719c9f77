/** The question in a record, and the line of its answer. A question is known by its content. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Answer } from '@minicpm-finetune/minicpm-v';
import {
  type ChatMessage,
  type ImageSource,
  type Part,
  recordMessages,
  type VideoSource,
} from '@minicpm-finetune/processor';
import { videoHash } from './identity.js';
import type { DataRecord } from './record.js';

/** The question of a record. */
export interface Question {
  readonly messages: readonly ChatMessage[];
  /** The last user turn as written. */
  readonly text: string;
  /** The record's last assistant turn; null: it ends in a question, or this answer is marked as not to be learned. */
  readonly reference: string | null;
  /** The record's own answer is marked as not to be learned, so an answer is not compared with it. */
  readonly unlearned: boolean;
}

/** The question of a record: everything before its last assistant turn. */
export function questionOf(record: DataRecord): Question {
  const turns = record.conversations;
  const last = turns.at(-1);
  const answered = last?.role === 'assistant';
  const unlearned = answered && last.supervised === false;
  const reference = answered && !unlearned ? last.content : null;
  const whole = answered ? turns : [...turns, { role: 'assistant', content: '' } as const];
  const messages = recordMessages({ image: record.image, video: record.video, conversations: whole }).slice(0, -1);
  const text = whole.at(-2)?.content ?? '';
  return { messages, text, reference, unlearned };
}

/** Indices of `count` records spread evenly over `length`: the same in every evaluation. */
export function fixedRecords(length: number, count: number): number[] {
  const some = Math.min(length, count);
  return Array.from({ length: some }, (_, i) => Math.floor((i * length) / some));
}

/** What a question asks, as hashes: of its turns with the places of the pictures, and of each picture's file, then of each video. */
export interface QuestionContent {
  readonly text: string;
  readonly images: readonly string[];
}

const hashOf = (content: string | Uint8Array): string =>
  createHash('sha256').update(content).digest('hex').slice(0, 32);

/** Pictures of a question in the order in which the model sees them. */
export function picturesOf({ messages }: Question): ImageSource[] {
  return messages.flatMap(({ content }) =>
    partsOf(content).flatMap((part) => (typeof part !== 'string' && 'image' in part ? [part.image] : [])),
  );
}

/** Videos of a question, likewise. */
export function videosOf({ messages }: Question): VideoSource[] {
  return messages.flatMap(({ content }) =>
    partsOf(content).flatMap((part) => (typeof part !== 'string' && 'video' in part ? [part.video] : [])),
  );
}

const partsOf = (content: ChatMessage['content']): readonly Part[] => (typeof content === 'string' ? [] : content);

/**
 * The content of a question. Where a picture lies does not matter, nor where the record stands in its file.
 *
 * @param known hashes of picture files by path, to be filled: data often show one picture in many records
 * @throws the system's error for a picture that cannot be read
 */
export async function contentOf(question: Question, known: Map<string, string>): Promise<QuestionContent> {
  const withoutImages = (part: Part): string | null => (typeof part === 'string' ? part : null);
  const turns = question.messages.map(({ role, content }) => [
    role,
    typeof content === 'string' ? [content] : content.map(withoutImages),
  ]);
  const images: string[] = [];
  for (const source of picturesOf(question)) images.push(await imageHash(source, known));
  for (const source of videosOf(question)) images.push(videoHash(source).toString('hex').slice(0, 32));
  return { text: hashOf(JSON.stringify(turns)), images };
}

async function imageHash(source: ImageSource, known: Map<string, string>): Promise<string> {
  if (typeof source !== 'string') return hashOf(source);
  const hash = known.get(source) ?? hashOf(await readFile(source));
  known.set(source, hash);
  return hash;
}

interface QuestionLine {
  /** Index of the record in the whole data. */
  readonly record: number;
  readonly id?: string;
}

/** A line of the output: an answer. */
export interface AnswerLine extends QuestionLine {
  readonly question: string;
  /** The record's own answer, if it has one. */
  readonly reference?: string;
  readonly answer: string;
  readonly tokens: number;
  readonly end: Answer['end'];
  /** What was asked: the answer is that of any record with this content. */
  readonly content: QuestionContent;
}

/** A line of the output: a record that could not be asked. */
export interface BadLine extends QuestionLine {
  /** What is wrong with it, and where. */
  readonly error: string;
}
