/** Work on a checkpoint that the page starts. Answers to a data file, the merged model, a GGUF file. */
import type { FieldError } from './tools.js';

/** `evaluate`: `minicpm-finetune generate`; `merge`: `merge`; `gguf`: `export --format gguf`. */
export type JobKind = 'evaluate' | 'merge' | 'gguf';

/** `POST /api/runs/:id/jobs` */
export interface JobRequest {
  kind: JobKind;
  /** Null: the run's result. */
  step: number | null;
  /** File of the answers, or folder of the model: below a folder of runs. Relative paths start where the page was started. */
  output: string;
  /** Of `evaluate`: the records, one file each. */
  data_path?: readonly string[] | undefined;
  /** Of `gguf`: the type of the weights. */
  outtype?: string | undefined;
}

/** One piece of work. Its process ends with the page's server. */
export interface Job {
  id: string;
  kind: JobKind;
  /** The handle of the run. */
  run: string;
  /** Null: the run's result. */
  step: number | null;
  /** For a shell. */
  command: string;
  /** The whole path. */
  output: string;
  state: 'running' | 'done' | 'failed' | 'stopped';
  /** The last line that the command printed. */
  said: string;
  /** So far, or in all. */
  seconds: number;
  /** Why it failed. */
  error: FieldError | null;
}
