/** What the server says for the screens Data, New run, Chat and Machine. */
import type { Flag, Text } from '@minicpm-finetune/run';

/** `GET /api/flags`: the one table of flags, as `train --help` shows it. */
export interface FlagsTable {
  groups: readonly { name: string; heading: Text }[];
  flags: readonly Flag[];
}

/** `POST /api/runs` and `POST /api/dry-run`: flags by name without dashes, as the form has them; absent: the default. */
export interface StartRequest {
  values: Readonly<Record<string, unknown>>;
  /** Wait until no other run of these folders runs. Otherwise it is started now. */
  queue?: boolean;
}

export interface StartAnswer {
  /** The run, to be opened: its state is `starting` or `queued`. */
  run: string;
  /** For a shell. */
  command: string;
}

/** `POST /api/command`: nothing runs. */
export interface CommandAnswer {
  command: string;
  /** A recipe with the same values. */
  yaml: string;
}

/** `POST /api/dry-run`: what `train --dry_run` says. */
export interface DryRunAnswer {
  ok: boolean;
  /** Derived numbers, notices, memory and disk: its standard error, without terminal codes. */
  lines: readonly string[];
  /** The resolved recipe; null: refused. */
  yaml: string | null;
  error: FieldError | null;
}

/** A mistake, and where. Every answer with a status of 400 or above is `{ error: FieldError }`. */
export interface FieldError {
  message: string;
  /** The field of the request, or the flag without dashes; null: none of them. */
  field: string | null;
  cure: string | null;
}

/** `POST /api/data/open`: the only way to open a data file. */
export interface OpenDataRequest {
  files: readonly string[];
  /** Checkpoint folder or name whose tokenizer and sizes are used; absent: the report needs none of them. */
  model?: string;
  model_max_length?: number;
  max_slice_nums?: number;
  compat?: 'inference' | 'official';
}

export interface OpenedData {
  /** A handle, gone when the server restarts. */
  data: string;
  files: readonly string[];
  /** Records, null until the report is there. */
  records: number | null;
}

/** `GET /api/data/:data/report` */
export interface DataReport {
  done: boolean;
  records: number;
  /** Records looked at so far. */
  looked: number;
  problems: readonly {
    level: 'error' | 'warning';
    record: number | null;
    message: string;
    cure: string | null;
  }[];
  /** Token length of each record; null where it is not known. */
  lengths: readonly (number | null)[];
  supervised: readonly (number | null)[];
  /** Pictures and slices of each record. */
  images: readonly number[];
  slices: readonly (number | null)[];
  /** The report of `check-data`, as text. */
  text: string;
}

/** `GET /api/data/:data/records?from=0&count=50&filter=all|error|warning|long|text` */
export interface RecordPage {
  total: number;
  records: readonly {
    record: number;
    id: string | null;
    turns: number;
    images: readonly (string | null)[];
    tokens: number | null;
    text: string;
    error: string | null;
  }[];
}

/** A token as the model reads it. */
export interface TokenView {
  id: number;
  text: string;
  role: 'system' | 'user' | 'assistant' | 'special';
  supervised: boolean;
  /** Beyond `model_max_length`. */
  cut: boolean;
  /** The token that is predicted here; null: none is. */
  label: number | null;
  /** Picture features stand here: so many, in a row. */
  features?: number;
}

/** `GET /api/data/:data/records/:n/render` */
export interface RenderedRecord {
  record: number;
  conversation: readonly { role: string; content: string }[];
  images: readonly {
    handle: string | null;
    width: number;
    height: number;
    grid: [number, number] | null;
    features: number;
  }[];
  tokens: readonly TokenView[];
  /** With `compat: official`, where it differs. */
  official: readonly TokenView[] | null;
  error: string | null;
}

/** `POST /api/chat`: starts `minicpm-finetune serve` as a child process. */
export interface ChatStartRequest {
  /** A run's result or checkpoint, or the model named. */
  source: { run: string; step: number | null } | { model: string };
  dtype?: string;
}

/** `GET /api/chat` lists them; requests go to `POST /api/chat/:id/v1/chat/completions`, which passes them on. */
export interface ChatProcess {
  id: string;
  state: 'loading' | 'ready' | 'ended';
  label: string;
  model: string;
  adapter: string | null;
  dtype: string | null;
  memory: number | null;
  error: string | null;
}

/** `GET /api/machine` */
export interface Machine {
  /** What `doctor` prints, as text. */
  doctor: string | null;
  hostname: string;
  cpus: number;
  cpuPercent: number | null;
  memory: { total: number; available: number };
  disks: readonly { folder: string; total: number; free: number }[];
  gpus: readonly {
    name: string;
    util: number | null;
    memUsed: number | null;
    memTotal: number | null;
    power: number | null;
    temp: number | null;
  }[];
  processes: readonly { run: string; pid: number; rss: number | null; command: string }[];
}
