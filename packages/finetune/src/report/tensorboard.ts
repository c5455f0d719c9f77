/**
 * Writes TensorBoard event files. TFRecords (packages/run) around `tensorflow.Event` messages, written by hand. Tags are those of transformers' trainer (`train/loss`, `eval/loss`, …).
 * packages/lab/python/check_tensorboard.py reads them with TensorBoard. Formats:
 * tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto.
 */
import { closeSync, mkdirSync, openSync, readdirSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type EvalEvent, type RunEvent, type StepEvent, tfRecord } from '@minicpm-finetune/run';

/** A picture of a step: an encoded PNG. */
export interface BoardImage {
  readonly tag: string;
  readonly png: Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** Appends to one event file, made at construction. */
export class TensorBoard {
  readonly path: string;
  readonly #file: number;

  /**
   * `startStep` is the step resumed from: TensorBoard drops the later steps of earlier files. `onName` gets the file's name before the file
   * is made.
   */
  constructor(folder: string, startStep = 0, onName: (name: string) => void = () => {}) {
    mkdirSync(folder, { recursive: true });
    const seconds = String(nextSecond(folder)).padStart(10, '0');
    const name = `${NAME}${seconds}.${hostname()}.${process.pid}.${counter++}`;
    onName(name);
    this.path = join(folder, name);
    this.#file = openSync(this.path, 'wx');
    this.#write(text(3, 'brain.Event:2'));
    const first = startStep === 0 ? 0 : startStep + 1;
    this.#write(Buffer.concat([varintField(2, first), message(7, varintField(1, 1))])); // SessionLog, START
  }

  /** Writes what has a place in TensorBoard: steps and evaluations. */
  event(event: RunEvent): void {
    if (event.event === 'step') this.#scalars(event.step, stepScalars(event));
    if (event.event === 'eval') this.#scalars(event.step, evalScalars(event));
  }

  image(step: number, { tag, png, width, height }: BoardImage): void {
    const image = [varintField(1, height), varintField(2, width), varintField(3, 3), bytes(4, png)];
    this.#summary(step, [Buffer.concat([text(1, tag), message(4, Buffer.concat(image))])]);
  }

  /** Markdown, for the text page. */
  text(step: number, tag: string, markdown: string): void {
    const metadata = message(1, text(1, 'text')); // SummaryMetadata.plugin_data.plugin_name
    const tensor = Buffer.concat([varintField(1, DT_STRING), message(2, Buffer.alloc(0)), text(8, markdown)]);
    this.#summary(step, [Buffer.concat([text(1, tag), message(9, metadata), message(8, tensor)])]);
  }

  #scalars(step: number, scalars: Readonly<Record<string, number | null>>): void {
    const values = Object.entries(scalars).map(([tag, value]) =>
      Buffer.concat([text(1, tag), float(2, value ?? Number.NaN)]),
    );
    this.#summary(step, values);
  }

  #summary(step: number, values: readonly Buffer[]): void {
    const summary = Buffer.concat(values.map((value) => message(1, value)));
    this.#write(Buffer.concat([varintField(2, step), message(5, summary)]));
  }

  #write(fields: Buffer): void {
    writeSync(this.#file, tfRecord(Buffer.concat([double(1, Date.now() / 1000), fields])));
  }

  close(): void {
    closeSync(this.#file);
  }
}

let counter = 0;
const NAME = 'events.out.tfevents.';

/** Now, in seconds, but after the files that are there: TensorBoard reads them by their names, and a clock may have been set back. */
function nextSecond(folder: string): number {
  const others = readdirSync(folder).filter((name) => name.startsWith(NAME));
  const latest = Math.max(0, ...others.map((name) => Number.parseInt(name.slice(NAME.length), 10) || 0));
  return Math.max(Math.floor(Date.now() / 1000), latest + (others.length > 0 ? 1 : 0));
}
const DT_STRING = 7;

function stepScalars(event: StepEvent): Record<string, number | null> {
  return {
    'train/loss': event.loss,
    'train/grad_norm': event.grad_norm,
    'train/learning_rate': event.learning_rate,
    'train/epoch': event.epoch,
    'train/samples_per_second': event.samples_per_s,
    'train/supervised_tokens_per_second': event.supervised_tokens_per_s,
    'train/data_wait_share': event.data_wait_share,
    ...Object.fromEntries(Object.entries(event.preference ?? {}).map(([name, value]) => [`train/${name}`, value])),
    ...(event.loss_scale === undefined ? {} : { 'train/loss_scale': event.loss_scale }),
    ...(event.skipped_steps === undefined ? {} : { 'train/skipped_steps': event.skipped_steps }),
  };
}

function evalScalars(event: EvalEvent): Record<string, number | null> {
  return {
    'eval/loss': event.loss,
    ...Object.fromEntries(Object.entries(event.metrics).map(([name, value]) => [`eval/${name}`, value])),
    'eval/runtime': event.seconds,
    'eval/samples_per_second': event.samples_per_s,
  };
}

// Protocol buffers: a field is its number and wire type (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes), then its value.

function varint(value: number): Buffer {
  const out: number[] = [];
  let rest = BigInt(value);
  for (; rest > 127n; rest >>= 7n) out.push(Number(rest & 127n) | 128);
  return Buffer.from([...out, Number(rest)]);
}

function varintField(field: number, value: number): Buffer {
  return Buffer.concat([varint(field << 3), varint(value)]);
}

function bytes(field: number, value: Uint8Array): Buffer {
  return Buffer.concat([varint((field << 3) | 2), varint(value.length), value]);
}

const message = bytes;

function text(field: number, value: string): Buffer {
  return bytes(field, Buffer.from(value));
}

function double(field: number, value: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeDoubleLE(value);
  return Buffer.concat([varint((field << 3) | 1), out]);
}

function float(field: number, value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeFloatLE(value);
  return Buffer.concat([varint((field << 3) | 5), out]);
}
