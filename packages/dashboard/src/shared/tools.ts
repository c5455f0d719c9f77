/** What the server says for Data, New run, Chat and Machine. */
import type { Flag, Text } from '@minicpm-finetune/run';

/** A mistake, and where. Every answer with a status of 400 or above is `{ error: FieldError }`. */
export interface FieldError {
  message: string;
  /** The field of the request, or the flag without dashes; null: none of them. */
  field: string | null;
  cure: string | null;
}

// New run

/** `GET /api/flags`: the one table of flags, as `train --help` shows it. */
export interface FlagsTable {
  groups: readonly { name: string; heading: Text }[];
  flags: readonly Flag[];
}

/** Flags by name without dashes, as the form has them; absent: the default. */
export type FlagValues = Readonly<Record<string, unknown>>;

export interface ValuesRequest {
  values: FlagValues;
}

/** `POST /api/command`: what a form says live; nothing is started. */
export interface CheckedValues {
  /** For a shell. */
  command: string;
  /** YAML with the same values. */
  recipe: string;
  /** Flags that differ from their defaults. */
  changed: readonly string[];
  mistakes: readonly FieldError[];
  /** Required flags without a value. */
  missing: readonly string[];
  /** Flags without effect, and why. */
  idle: readonly { name: string; reason: string }[];
}

/** `POST /api/runs` */
export interface StartRequest extends ValuesRequest {
  /** Wait until no other run of these folders runs. Otherwise it is started now. */
  queue?: boolean;
}

export interface StartAnswer {
  /** The run, to be opened: its state is `starting` or `queued`. */
  run: string;
  /** For a shell. */
  command: string;
}

/** A line of an estimate of memory. */
interface MemoryLine {
  category: string;
  bytes: number;
}

/** `POST /api/dry-run`: what `train --dry_run json` says. */
export interface DryRunAnswer {
  error: FieldError | null;
  /** What was given but means nothing, or less than it seems. */
  notices: readonly string[];
  /** Derived numbers and what was found, a line each. */
  lines: readonly string[];
  /** The resolved recipe; null: refused. */
  recipe: string | null;
  /** Of one device; null: not estimated. */
  memory: {
    device: string;
    bytes: number;
    free: number | null;
    total: number | null;
    by: readonly MemoryLine[];
    hostBytes: number;
    trainedNumbers: number;
    totalNumbers: number;
  } | null;
  /** Of the disk of the run folder. */
  disk: { folder: string; free: number } | null;
}

/** `POST /api/estimate`: the cheapest settings that fit into the memory of this machine, or into `room` bytes. */
export interface EstimateRequest extends ValuesRequest {
  room?: number;
}

export interface EstimateAnswer {
  error: FieldError | null;
  device: string | null;
  room: number;
  /** What it takes with `changes`; null: nothing that may be changed fits. */
  bytes: number | null;
  /** Flags to change so that it fits; empty: it fits as it is. */
  changes: FlagValues;
}

/** `POST /api/recipe`: a recipe's text to values of the form. */
export interface RecipeRequest {
  text: string;
}

export interface RecipeAnswer {
  error: FieldError | null;
  values: FlagValues;
  /** Keys that the form has no field for: they are left out. */
  left: readonly string[];
}

// Data

/** How records are encoded: flags of `train` of the same names; absent: their defaults. */
export interface EncodingSettings {
  model_max_length?: number;
  overlong?: 'fewer_slices' | 'truncate_text' | 'drop' | 'error';
  max_slice_nums?: number;
  scale_resolution?: number;
  thinking?: 'inference' | 'every_turn' | 'as_written';
  video_fps?: number;
  video_max_frames?: number;
  video_max_packing?: number;
  video_max_slice_nums?: number;
  allow_special_text?: boolean;
}

/** `POST /api/data/open`: the only way to open a data file. */
export interface OpenDataRequest {
  /** Paths of JSON, JSON Lines and parquet files; relative ones count from the folder in which the page's server was started. */
  files: readonly string[];
  /** Checkpoint folder or name, whose tokenizer and sizes are used. */
  model: string;
  settings?: EncodingSettings;
}

export interface OpenedData {
  /** A handle, gone when the server restarts. */
  data: string;
  files: readonly { path: string; records: number }[];
  model: string;
  records: number;
  modelMaxLength: number;
  maxSliceNums: number | null;
}

export interface Finding {
  level: 'error' | 'warning';
  /** Of all files; null: not of one record. */
  record: number | null;
  /** Where it is, such as `train.json:12, record 3, turn 1`. */
  place: string;
  message: string;
  cure: string | null;
}

export interface Distribution {
  min: number;
  mean: number;
  median: number;
  p90: number;
  p99: number;
  max: number;
  histogram: readonly { from: number; to: number; count: number }[];
}

/** `GET /api/data/:data/report`: check-data's report. */
export interface DataReport {
  state: 'running' | 'done' | 'failed';
  /** The last line of its progress, or why it failed. */
  said: string;
  report: CheckedData | null;
}

export interface CheckedData {
  records: number;
  files: readonly { path: string; records: number; description: string }[];
  findings: readonly Finding[];
  /** Tokens of the sound records, whole; null: there is none. */
  tokens: Distribution | null;
  /** Share of all tokens that the model learns to produce. */
  supervisedShare: number | null;
  textOnly: number;
  images: number;
  videos: number;
  /** Of all videos. */
  frames: number;
  /** Number of images by number of slices. */
  slicesPerImage: readonly { slices: number; images: number }[];
  modelMaxLength: number;
  suggestedModelMaxLength: number | null;
  /** Tokens of each record; null: it is bad. */
  lengths: readonly (number | null)[];
  seconds: number;
}

export type RecordFilter = 'all' | 'error' | 'warning' | 'long' | 'text_only';

/** `GET /api/data/:data/records`. Filters other than `all` need the report. */
export interface RecordsRequest {
  from?: number;
  count?: number;
  filter?: RecordFilter;
  /** For `long`: more tokens than that. */
  model_max_length?: number;
}

export interface RecordPage {
  /** Records that pass the filter. */
  total: number;
  from: number;
  records: readonly RecordPreview[];
}

export interface RecordPreview {
  record: number;
  question: string;
  answer: string;
  /** Images of it: `GET /api/data/:data/records/:n/images/:i?w=96`. */
  images: number;
  /** Videos of it: `GET /api/data/:data/records/:n/videos/:i?w=96` is the first frame. */
  videos: number;
  /** Null: not known yet, or bad. */
  tokens: number | null;
  errors: number;
  warnings: number;
  /** Why it cannot be read. */
  error: string | null;
}

/** `GET /api/data/:data/records/:n`; `context`: the records that pass the filter before and after it. */
export interface RecordRequest {
  model_max_length?: number;
  overlong?: EncodingSettings['overlong'];
}

type Role = 'system' | 'user' | 'assistant';

/** A token as the model reads it. */
export interface TokenView {
  /** Position in the sequence; null: cut off. */
  index: number | null;
  /** Null: an end token that is learned but not in the sequence. */
  id: number | null;
  text: string;
  role: Role;
  /** The model learns to produce it, or what `instead` says. */
  supervised: boolean;
  instead?: string;
  /** The shifted label of its position: what the model learns to produce after it. */
  label: { id: number; text: string } | null;
  cut?: true;
}

/** Neighbouring features of one picture. */
export interface FeaturesView {
  index: number | null;
  features: number;
  /** Number of the picture; null: cut off. */
  picture: number | null;
  role: Role;
  cut?: true;
}

interface ImageView {
  /** Its file; null: in the data. */
  name: string | null;
  turn: number;
  role: Role;
  width: number;
  height: number;
  grid: { columns: number; rows: number } | null;
  /** Numbers of its pictures, the overview first: `GET /api/data/:data/records/:n/pictures/:k?compat=`. */
  pictures: readonly number[];
}

interface VideoView {
  /** Its file or folder, or the files of its frames. */
  name: string | readonly string[];
  turn: number;
  role: Role;
  /** What the model sees of it: `time` in seconds, and the numbers of the frame's pictures. */
  frames: readonly (Pick<ImageView, 'grid' | 'pictures'> & { time: number })[];
}

type CompatName = 'inference' | 'official';

export interface EncodingView {
  compat: CompatName;
  error: FieldError | null;
  length: number;
  supervised: number;
  cut: number;
  notices: readonly string[];
  tokens: readonly (TokenView | FeaturesView)[];
  images: readonly ImageView[];
  videos: readonly VideoView[];
}

export interface RecordView {
  record: number;
  /** Such as `train.json:12, record 3`. */
  place: string;
  id: string | null;
  conversation: readonly { role: Role; name: string; content: string; learned: boolean }[];
  /** Both values of `--compat`. */
  encodings: readonly EncodingView[];
  findings: readonly Finding[];
}

// Chat

/** Whom to ask: a run's checkpoint (`step` null: its result; `base`: the model that it began with), or a model's folder or name. */
export type ChatSource = { run: string; step: number | null | 'base' } | { model: string };

export interface ChatStartRequest {
  source: ChatSource;
  dtype?: 'float32' | 'bfloat16' | 'float16';
}

/** A model that answers, or that is being loaded. Requests go to `POST /api/chat/:id/v1/chat/completions`. */
export interface ChatModel {
  id: string;
  state: 'loading' | 'ready' | 'ended';
  /** Such as `invoices, step 200`. */
  label: string;
  source: ChatSource;
  /** Folder or name of the base, and folder of the adapter; null: none. */
  base: string;
  adapter: string | null;
  dtype: string | null;
  /** The process that holds it; several models may share one. */
  server: { id: string; pid: number | null; rss: number | null; seconds: number | null };
  /** Why it ended. */
  error: string | null;
  /** Whether it reads videos; null: not known yet. */
  videos: boolean | null;
  /** What a user should know of how it was trained. */
  notices: readonly string[];
  /** For a shell: the same without this page. */
  command: string;
  /** Its `model` in requests to that command. */
  name: string;
}

// Machine

/** A finding of `doctor`. */
export interface DoctorFinding {
  name: string;
  status: 'ok' | 'note' | 'missing';
  found: string;
  cure: string | null;
}

/** `POST /api/machine/doctor` starts it, unless it runs. */
export interface DoctorReport {
  state: 'none' | 'running' | 'done' | 'failed';
  findings: readonly DoctorFinding[];
  /** When it ended, ISO 8601. */
  time: string | null;
  error: string | null;
}

export interface GpuView {
  name: string;
  util: number | null;
  memUsed: number | null;
  memTotal: number | null;
  power: number | null;
  temp: number | null;
}

export interface ProcessView {
  pid: number;
  kind: 'run' | 'chat' | 'page';
  /** The run's id, or the chat model's. */
  id: string | null;
  name: string;
  rss: number | null;
  cpuPercent: number | null;
}

/** `GET /api/machine` */
export interface Machine {
  hostname: string;
  cpus: number;
  processor: string;
  cpuPercent: number | null;
  load: readonly number[];
  memory: { total: number; available: number };
  disks: readonly { folder: string; total: number; free: number }[];
  gpus: readonly GpuView[];
  processes: readonly ProcessView[];
  doctor: DoctorReport;
}
