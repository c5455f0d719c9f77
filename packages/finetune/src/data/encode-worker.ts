/**
 * The worker thread of encode-pool.ts. Takes record indices, answers with encoded samples. It holds no order and no
 * policy; those are the loader's. Pixels and ids are transferred, not copied.
 */
import assert from 'node:assert/strict';
import { constants, setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import type { WorkerJob, WorkerMessage } from './encode-pool.js';
import {
  type EncodeTask,
  type Outcome,
  openTask,
  type TaskName,
  type TaskResults,
  type TaskSetup,
  type TrainingSample,
} from './encode-task.js';
import type { Looked } from './look-range.js';

assert(parentPort);
const port = parentPort;
function say(message: WorkerMessage, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}

async function answer(task: EncodeTask<TaskName>, { job, index, count }: WorkerJob): Promise<void> {
  try {
    const outcome = await task.run(index, count);
    say({ kind: 'result', job, outcome }, transferables(outcome));
  } catch (error) {
    if (error instanceof UserError) say({ kind: 'refused', job, error: error.toData() });
    else say({ kind: 'broken', job, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
}

/** The memory of a sample's arrays, each once. */
function transferables(outcome: Outcome<TaskResults[TaskName]>): ArrayBuffer[] {
  if (!outcome.ok || outcome.value === null || typeof outcome.value !== 'object') return [];
  const arrays = arraysIn(outcome.value);
  return [...new Set(arrays.map((array) => array.buffer as ArrayBuffer))];
}

function arraysIn(value: object): ArrayBufferView[] {
  if ('texts' in value) {
    const { lengths, texts, stamps, contents, files } = value as Looked;
    return [lengths, texts, stamps, contents, files];
  }
  const { sample } = value as TrainingSample;
  if (!sample) return [];
  const positions = sample.positionIds === undefined ? [] : [sample.positionIds];
  return [sample.inputIds, sample.labels, ...positions, ...sample.pictures.map((picture) => picture.pixels)];
}

sharp.cache(false); // no picture is decoded twice in a row
sharp.concurrency(1); // the threads are the parallelism; libvips' own would take the cores from the training step
const { name, setup } = workerData as { name: TaskName; setup: TaskSetup };
if (setup.idle === true && process.platform === 'linux') setPriority(0, constants.priority.PRIORITY_LOW); // of this thread
try {
  const task = await openTask(name, setup, (message) => say({ kind: 'notice', message }));
  port.on('message', (job: WorkerJob) => void answer(task, job));
  say({ kind: 'ready' });
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  say({ kind: 'failed', error: error.toData() });
}
