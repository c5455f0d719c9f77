/**
 * The worker thread of encode-pool.ts. Takes record indices, answers with encoded samples. It holds no order and no
 * policy; those are the loader's. Pixels and ids are transferred, not copied.
 */
import assert from 'node:assert/strict';
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
} from './encode-task.js';

assert(parentPort);
const port = parentPort;
function say(message: WorkerMessage, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}

async function answer(task: EncodeTask<TaskName>, { job, index }: WorkerJob): Promise<void> {
  try {
    const outcome = await task.run(index);
    say({ kind: 'result', job, outcome }, transferables(outcome));
  } catch (error) {
    say({ kind: 'broken', job, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
}

/** The memory of a sample's arrays, each once. */
function transferables(outcome: Outcome<TaskResults[TaskName]>): ArrayBuffer[] {
  if (!outcome.ok || outcome.value === null || typeof outcome.value !== 'object') return [];
  if (!('pictures' in outcome.value)) return [];
  const { inputIds, labels, pictures } = outcome.value;
  const arrays = [inputIds, labels, ...pictures.map((picture) => picture.pixels)];
  return [...new Set(arrays.map((array) => array.buffer as ArrayBuffer))];
}

sharp.cache(false); // no picture is decoded twice in a row
sharp.concurrency(1); // the threads are the parallelism; libvips' own would take the cores from the training step
const { name, setup } = workerData as { name: TaskName; setup: TaskSetup };
try {
  const task = await openTask(name, setup, (message) => say({ kind: 'notice', message }));
  port.on('message', (job: WorkerJob) => void answer(task, job));
  say({ kind: 'ready' });
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  say({ kind: 'failed', error: error.toData() });
}
