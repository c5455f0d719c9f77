/**
 * The events of a run, one JSON object per line. In the order in which they happened.
 *
 * Every event has `event` (its kind) and `time`. Times are seconds, sizes bytes, rates per second. JSON knows no NaN:
 * a number that was not finite is written, and typed here, as null. A reader has to ignore kinds and fields it does
 * not know; fields are only ever added.
 */
import type { RunConfig } from './config/config.js';

/** A number, or null where it was not finite. */
export type Finite = number | null;

export interface MemoryUse {
  /** Resident set of the process; of several ranks, the largest. */
  rss: number;
  /** Live tensors of libtorch on the training device. */
  tensors?: number;
  /** Most the device allocator ever held, where it counts. */
  device_peak?: number;
}

/** First event of every start, also of a resumed one. */
export interface RunStartEvent {
  event: 'run_start';
  /** Versions: `minicpm_finetune`, `node`, `libtorch`. */
  versions: Record<string, string>;
  config: RunConfig;
  /** Notices of the command line, one sentence each. */
  notices: string[];
  /** Derived numbers with their arithmetic, one line each. */
  derived: string[];
  /** Optimizer steps of the whole run. */
  total_steps: number;
  /** Records in the training and evaluation data. */
  train_samples: number;
  eval_samples: number;
  /** Numbers in trainable tensors, and in all. */
  trainable_parameters: number;
  total_parameters: number;
  /** Where adapters are, by part of the model: layers with adapters, layers there are, linear layers with an adapter, and these by name. */
  adapters?: readonly {
    part: string;
    layers: number;
    of: number;
    modules: number;
    names: Readonly<Record<string, number>>;
  }[];
  world_size: number;
  device: string;
  /** Optimizer steps already done by the checkpoint resumed from; 0: a fresh run. */
  resumed_at_step: number;
  /** Seconds of what came before this event, when there was no file to write to; absent: an earlier version wrote the event. */
  startup_seconds?: Partial<Record<StartupPhase, number>>;
  /** The process of rank 0. Absent in runs of versions that did not write it, as are the next ones. */
  pid?: number;
  /** When it started, as the system counts it (on Linux field 22 of /proc/PID/stat): tells it from a later process of the same id. Null: not known. */
  process_start?: string | null;
  hostname?: string;
  /** The working folder. */
  cwd?: string;
  /** The program and its arguments. */
  command?: string[];
}

/** What a run does before there is a file to write to: data are read and checked, weights are loaded, a reference model is asked. */
export type StartupPhase = 'preparing' | 'loading' | 'reference';

/** What the run does from now on. Evaluating is the loss, answering is `--eval_generate`. For what comes before the training see `startup_seconds`. */
export interface PhaseEvent {
  event: 'phase';
  name: 'training' | 'evaluating' | 'answering' | 'saving';
  /** Optimizer steps done. */
  step: number;
}

/** The machine of rank 0, every ten seconds. */
export interface SystemEvent {
  event: 'system';
  /** Processor time of the process since the last such event, in percent of one core. */
  cpu_percent: number;
  /** Bytes: resident set of the process, and what the machine has available. */
  rss: number;
  available: number;
  /** Threads of one operator. */
  threads: number;
  /** Bytes free on the disk of the run folder. */
  disk_free: number;
  /** NVIDIA cards of the machine: percent of the time in use, bytes, watts, degrees Celsius; null where the driver does not say. */
  gpu?: {
    util: number | null;
    mem_used: number | null;
    mem_total: number | null;
    power: number | null;
    temp: number | null;
  }[];
}

/** What memory is planned with: after the first steps, and when it has changed. Bytes. */
export interface MemoryPlanEvent {
  event: 'memory_plan';
  /** null: none is set. */
  budget: number | null;
  /** Measured with every block recomputed; null: not measured. */
  baseline: number | null;
  /** Graphs that are kept beside it. */
  kept: number;
  /** As estimated before the start, by category. Empty with --memory_check off. */
  by: Record<string, number>;
}

/** An optimizer step that is logged (every `logging_steps`); rates and shares are over the steps since the last one. */
export interface StepEvent {
  event: 'step';
  /** Optimizer steps done, this one included: 1 after the first. */
  step: number;
  /** Passes over the data, with the fraction of the current one. */
  epoch: number;
  /** Mean over the steps since the last event, each a mean over its supervised tokens. */
  loss: Finite;
  /** Global norm before clipping, of this step. */
  grad_norm: Finite;
  /** Used by this step in the first parameter group. */
  learning_rate: number;
  /** Preference tuning: metrics by TRL's names, such as `rewards/margins`; each is a mean over the steps since the last event. */
  preference?: Record<string, number>;
  /** float16 only. */
  loss_scale?: number;
  /** Steps skipped since the start because something was not finite. */
  skipped_steps?: number;
  /** Seconds per optimizer step. */
  step_seconds: number;
  samples_per_s: number;
  tokens_per_s: number;
  supervised_tokens_per_s: number;
  /** Number of ranks. Samples and tokens are those of all. */
  world_size: number;
  /** Share of the time, 0 to 1, in which the step waited for data; of several ranks, the one that waited longest. */
  data_wait_share: number;
  /** Share of the pictures, 0 to 1, whose vision features were stored already (--cache_vision). */
  vision_hit_rate?: number;
  memory: MemoryUse;
  /** Seconds to the end of the run, by the recent pace. */
  eta_seconds: number;
}

export interface EvalEvent {
  event: 'eval';
  step: number;
  epoch: number;
  /** Mean over the supervised tokens of the whole evaluation data. */
  loss: Finite;
  /** Further metrics by name, such as `exact_match`, `anls`, `rouge_l`, or those of preference tuning. */
  metrics: Record<string, Finite>;
  samples: number;
  seconds: number;
  samples_per_s: number;
  /** Answers to fixed records (`--eval_generate`): file relative to the run folder. */
  answers_file?: string;
}

export interface CheckpointEvent {
  event: 'checkpoint';
  step: number;
  /** Folder relative to the run folder. */
  path: string;
  bytes: number;
  seconds: number;
  /** Why it was written. */
  reason: 'interval' | 'signal' | 'stop' | 'best' | 'error';
  /** Folders removed afterwards because of save_total_limit, relative to the run folder. */
  removed: string[];
}

/** Something a user should know but that does not end the run: a skipped record, a failed write, a non-finite step. */
export interface WarningEvent {
  event: 'warning';
  /** Short machine-readable kind such as `bad_record`, `nonfinite`, `write_failed`. */
  kind: string;
  message: string;
  step?: number;
  file?: string;
  record?: number | string;
}

/** The run was asked to end early and will do so after the current step. */
export interface StopEvent {
  event: 'stop';
  reason: 'sigint' | 'sigterm' | 'stop_file' | 'abort' | 'nonfinite';
  step: number;
}

/** Last event, also of a run that failed, unless the process was killed. */
export interface RunEndEvent {
  event: 'run_end';
  status: 'finished' | 'stopped' | 'failed';
  step: number;
  /** Mean training loss over all steps of the run, those before it was resumed included. */
  train_loss?: Finite;
  /** Wall-clock seconds of this start. */
  seconds: number;
  /** Pictures looked up in the vision cache, and found (--cache_vision). */
  vision_cache?: { pictures: number; hits: number };
  /** Set if failed. */
  error?: string;
  /** Where the final weights or adapter are, relative to the run folder. */
  output?: string;
}

export type RunEvent =
  | RunStartEvent
  | PhaseEvent
  | SystemEvent
  | MemoryPlanEvent
  | StepEvent
  | EvalEvent
  | CheckpointEvent
  | WarningEvent
  | StopEvent
  | RunEndEvent;

/** An event as it stands in the file. */
export type StampedEvent = RunEvent & {
  /** ISO 8601, UTC, milliseconds. */
  time: string;
};

export const EVENT_KINDS = [
  'run_start',
  'phase',
  'system',
  'memory_plan',
  'step',
  'eval',
  'checkpoint',
  'warning',
  'stop',
  'run_end',
] as const satisfies readonly RunEvent['event'][];
