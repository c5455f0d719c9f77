/** What the server says about runs. All of it is read from run folders; what a run does not tell is null. */
import type { FlagKind, StampedEvent, Text } from '@minicpm-finetune/run';

/**
 * How a run stands.
 *
 * - `queued`: waits until another run has ended; `starting`: its process runs and has no events yet;
 * - `running`: its process is there; `probably_running`: of another machine, its file grew lately;
 * - `finished`, `stopped`, `failed`: as its last event says; `killed`: its process is gone and wrote no last event.
 */
export type RunState =
  | 'queued'
  | 'starting'
  | 'running'
  | 'probably_running'
  | 'finished'
  | 'stopped'
  | 'failed'
  | 'killed';

/** What trains, in words of the field. */
export interface Method {
  kind: 'full' | 'lora' | 'qlora';
  /** Rank of the adapters; null without. */
  r: number | null;
  /** The loss of preference tuning, such as `dpo`; null: supervised. */
  preference: string | null;
}

/** A measured value and the step of it. */
export interface AtStep {
  name: string;
  value: number;
  step: number;
}

/** What a person wrote about a run (`ui.json` in the run folder). Never read by the trainer. */
export interface UserNotes {
  tags: readonly string[];
  star: boolean;
  note: string;
  archived: boolean;
}

/** A line of the list of runs. Times are ISO 8601, durations seconds, sizes bytes. */
export interface RunSummary {
  /** A handle: stable as long as the folder stays where it is. */
  id: string;
  /** `run_name`, or the folder relative to the folder of runs. */
  name: string;
  /** The folder, to be shown and copied. */
  folder: string;
  state: RunState;
  /** The error of a failed run; what is known of a start that failed before its first event. */
  error: string | null;
  /** What it does now, such as `training`; null when it does not run or does not say. */
  phase: string | null;
  /** While it starts: the last line that it printed; null: it does not start, or the page did not start it. */
  said: string | null;
  model: string | null;
  method: Method | null;
  step: number;
  totalSteps: number | null;
  epoch: number | null;
  etaSeconds: number | null;
  /** Loss of the last logged step; null also where it was not finite. */
  loss: number | null;
  bestEvalLoss: AtStep | null;
  /** Of `metric_for_best_model`, or of the first metric there is. */
  bestMetric: AtStep | null;
  tokensPerSecond: number | null;
  peakMemory: number | null;
  started: string | null;
  /** Of the last event. */
  updated: string | null;
  /** Of all starts, without the time between them. */
  durationSeconds: number | null;
  /** Starts, the first one included. */
  starts: number;
  warnings: number;
  /** Step of the newest checkpoint from which it can be resumed. */
  resumableStep: number | null;
  /** Flags that differ from their defaults, by name. Defaults are in `GET /api/flags`. */
  changed: Readonly<Record<string, unknown>>;
  notes: UserNotes;
  /** Bytes of `events.jsonl` that this was made from: events of the stream up to here are in it. */
  offset: number;
}

/** `GET /api/runs` */
export interface RunList {
  runs: readonly RunSummary[];
  /** To be given to `GET /api/events?after=`. */
  position: string;
  /** The folders that are looked through. */
  roots: readonly string[];
  /** Folders that cannot be read, and why. */
  problems: readonly string[];
}

/** One start of a run: the first one, or one that resumed. */
export interface RunStart {
  /** Index among the starts. */
  start: number;
  time: string;
  resumedAtStep: number;
  /** Last logged step of it. */
  lastStep: number;
  pid: number | null;
  hostname: string | null;
  cwd: string | null;
  /** The program and its arguments; null in runs of versions that did not write it. */
  command: readonly string[] | null;
}

/** A flag of a run. */
export interface ConfigEntry {
  name: string;
  group: string;
  /** Heading of the group. */
  heading: Text;
  /** Null: a flag that this version does not know. */
  help: Text | null;
  kind: FlagKind | null;
  value: unknown;
  /** Undefined: there is none, or it is not known. */
  default?: unknown;
  changed: boolean;
}

export interface MetricName {
  name: string;
  /** The kind of event that holds it. */
  source: 'step' | 'eval' | 'system';
  points: number;
}

/** `GET /api/runs/:id` */
export interface RunDetails {
  summary: RunSummary;
  /** The last `run_start` as it stands in the file: derived numbers, versions, counts. Null: unreadable. */
  start: (StampedEvent & { event: 'run_start' }) | null;
  starts: readonly RunStart[];
  config: readonly ConfigEntry[];
  /** The command line of the run with the flags that differ from their defaults, for a shell. */
  command: string;
  metrics: readonly MetricName[];
  /** Events of kind `warning`, oldest first, at most 1000. */
  warnings: readonly (StampedEvent & { event: 'warning' })[];
  /** The last of its kind; null: the run wrote none. */
  memoryPlan: (StampedEvent & { event: 'memory_plan' }) | null;
  system: (StampedEvent & { event: 'system' }) | null;
  lastStep: (StampedEvent & { event: 'step' }) | null;
  end: (StampedEvent & { event: 'run_end' }) | null;
  /** Lines of the file that are no events, with their byte offset: shown, never hidden. */
  damaged: readonly number[];
  /** What may be done now. */
  actions: Readonly<Record<RunAction, boolean>>;
  /** A stop was asked for (STOP file) and is not yet obeyed. */
  stopping: boolean;
  /** Whether there is a `console.log` to show. */
  hasLog: boolean;
  /** Steps with answers to fixed records. */
  answerSteps: readonly number[];
}

export type RunAction = 'stop' | 'save' | 'end' | 'resume' | 'archive' | 'delete' | 'duplicate';

export type XAxis = 'step' | 'epoch' | 'time' | 'tokens';

/** `GET /api/runs/:id/series`. All are optional; `metrics` are separated by commas. */
export interface SeriesRequest {
  x?: XAxis;
  metrics?: string;
  /** Most points of a metric, 2000 unless given; at most 20 000. */
  points?: number;
  /** Range of x, ends included. */
  from?: number;
  to?: number;
  /** Share of the average before, 0 to 0.999; 0: no smoothing. */
  smoothing?: number;
  /** 1: also what resumed starts have replaced. */
  abandoned?: 0 | 1;
}

/** Points of a metric, reduced to first, smallest, largest and last of each bucket (M4). Arrays of one length. */
export interface Column {
  x: readonly number[];
  /** Null: not finite, a gap. */
  y: readonly (number | null)[];
  /** Debiased exponential moving average over all points, made before the reduction; empty with smoothing 0. */
  smooth: readonly (number | null)[];
  /** Points before the reduction. */
  of: number;
}

export interface Mark {
  kind: 'resume' | 'checkpoint' | 'nonfinite';
  step: number;
  x: number;
}

export interface Series {
  x: XAxis;
  columns: Readonly<Record<string, Column>>;
  /** Steps of earlier starts after the step that a later start resumed at. */
  abandoned: readonly { start: number; columns: Readonly<Record<string, Column>> }[];
  marks: readonly Mark[];
  /** Bytes of `events.jsonl` that this was made from. */
  offset: number;
}

/** A picture of a run: `GET /api/images/:handle?w=256` answers WebP. Null: the file is missing or is no picture. */
export type ImageHandle = string;

/** A fixed record of the evaluation data. */
export interface AnswerRecord {
  record: number;
  id: string | null;
  question: string;
  reference: string | null;
  images: readonly (ImageHandle | null)[];
  /** Frames of its videos with their times in seconds; `seen`: frames that the model sees. */
  videos: readonly { frames: readonly { image: ImageHandle | null; time: number }[]; seen: number }[];
}

/** `GET /api/runs/:id/answers` */
export interface AnswerIndex {
  /** `epoch` null: not known. */
  steps: readonly { step: number; epoch: number | null; metrics: Readonly<Record<string, number | null>> }[];
  records: readonly AnswerRecord[];
}

/** `GET /api/runs/:id/answers/:step` */
export interface StepAnswers {
  step: number;
  answers: readonly {
    record: number;
    answer: string;
    tokens: number | null;
    /** Why it ended, such as `end` or `length`. */
    end: string | null;
    /** `exact_match`, `anls`, `rouge_l`, 0 to 1; empty without reference. */
    metrics: Readonly<Record<string, number>>;
  }[];
  /** Lines that are no answers, by their number from 1. */
  damaged: readonly number[];
}

/** `GET /api/images/:handle/slices`: how the run's model cuts the picture. Pixels of the picture as it is shown upright. */
export interface ImageSlices {
  width: number;
  height: number;
  /** Null: the picture is looked at whole. */
  grid: { columns: number; rows: number } | null;
}

export interface Checkpoint {
  step: number;
  /** To be shown and copied. */
  folder: string;
  reason: string | null;
  bytes: number;
  seconds: number | null;
  evalLoss: number | null;
  time: string | null;
  /** Every file of its manifest is there with its size. */
  complete: boolean;
  /** What is missing or of another size. */
  problems: readonly string[];
  /** It holds optimizer and random states. */
  resumable: boolean;
  best: boolean;
  /** Why it cannot be deleted; null: it can. */
  kept: string | null;
  /** For a shell. */
  commands: Readonly<Record<'resume' | 'chat' | 'generate' | 'merge', string>>;
}

/** `GET /api/runs/:id/checkpoints` */
export interface CheckpointList {
  checkpoints: readonly Checkpoint[];
  /** Bytes of all. */
  bytes: number;
  /** The final weights or adapter in the run folder; null: none yet. */
  result: { folder: string; bytes: number } | null;
}

/** `GET /api/log/:id?from=BYTE&last=BYTES`: a window of `console.log`, at most 1 MiB, without terminal codes. */
export interface LogWindow {
  text: string;
  /** Byte offsets in the file. `to` is the next `from`. */
  from: number;
  to: number;
  size: number;
}

/** `GET /api/runs/:id/recipe` */
export interface Recipe {
  yaml: string;
  /** For a shell. */
  command: string;
  /** For the form of a new run: the flags that differ from their defaults. */
  values: Readonly<Record<string, unknown>>;
}

/** `POST /api/runs/:id/resume` */
export interface ResumeRequest {
  /** The newest one unless given. */
  step?: number;
}

/** `POST /api/runs/:id/end`: SIGTERM; a second one ends the process without saving. */
export interface EndRequest {
  /** The name of the run, as a confirmation. */
  name: string;
}

/** `POST /api/runs/:id/delete`: removes the run folder with all checkpoints. */
export interface DeleteRequest {
  /** The name of the run, as a confirmation. */
  name: string;
}

/** Answer of `stop`, `save`, `end`, `resume`, `archive`, `delete`, `PUT …/ui` and of deleting a checkpoint. */
export interface ActionAnswer {
  /** Null: it was deleted. */
  run: RunSummary | null;
  /** What was done, one English sentence, for the log of the page. */
  done: string;
}
