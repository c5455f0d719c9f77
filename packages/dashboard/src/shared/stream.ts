/**
 * The stream of server-sent events: `GET /api/events`.
 *
 * A position is a list `run:byteOffset` with commas: all events of a run whose line ends after that byte are sent. A run that is not in the
 * list is sent from its beginning. The `id:` of each message is the position after it, of the runs that moved since `after`; a browser that
 * reconnects sends it as `Last-Event-ID`, which counts over `after`. Without `after` the stream begins with what happens from now on.
 */
import type { StampedEvent } from '@minicpm-finetune/run';
import type { RunSummary } from './runs.js';

/** Lines of one run's `events.jsonl` in order; at most ten such messages a second for each run. */
export interface EventBatch {
  run: string;
  /** Bytes of the file: before the first line, and after the last one. */
  from: number;
  to: number;
  /** `offset`: the byte after its line. Drop those with an offset not above that of the series or details that you have. */
  events: readonly { offset: number; event: StampedEvent }[];
}

/** Name of a message -> its data (JSON). */
export interface StreamMessages {
  events: EventBatch;
  /** A run that is new, or of which something changed: state, notes, progress. Replaces the one of the same id. */
  run: RunSummary;
  /** The folder is gone. */
  removed: { run: string };
  /** The file became shorter or another one (the run was started afresh): forget what you have and load it again. */
  reset: { run: string };
}

export type StreamName = keyof StreamMessages;
