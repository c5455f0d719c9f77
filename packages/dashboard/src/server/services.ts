/** What the routes share. Made once by the server. */
import type { Pictures } from './http/pictures.js';
import type { CommandLine } from './process/command-words.js';
import type { Launcher } from './process/launcher.js';
import type { Records } from './runs/records.js';
import type { RunIndex } from './runs/run-index.js';

export type { CommandLine };

/** Sizes of pictures and cuts are known to packages that this one does not import. */
export interface SliceSettings {
  readonly maxSliceNums: number;
  readonly scaleResolution: number;
  readonly patchSize: number;
}

/** Columns and rows into which a picture of so many pixels is cut; null: it is looked at whole. */
export type SliceGrid = (width: number, height: number, settings: SliceSettings) => readonly [number, number] | null;

export interface Services {
  readonly runs: RunIndex;
  readonly records: Records;
  readonly launcher: Launcher;
  readonly commandLine: CommandLine;
  readonly pictures: Pictures;
  readonly sliceGrid: SliceGrid;
  /** The folder in which the page was started: relative paths of flags start here. */
  readonly cwd: string;
  readonly version: string;
  /** `close` is called when the server ends, to end children that are not runs; the answer takes it back. */
  onClose(close: () => void | Promise<void>): () => void;
}
