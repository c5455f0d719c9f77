/** What the routes share. Made once by the server. */
import type { Pictures } from './http/pictures.js';
import type { Launcher } from './process/launcher.js';
import type { RunIndex } from './runs/run-index.js';

/** How the page starts the command line: the program and its first words, before the name of a command. */
export interface CommandLine {
  /** Such as `process.execPath`. */
  readonly program: string;
  /** Such as the path of `main.js`. */
  readonly words: readonly string[];
}

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
  readonly launcher: Launcher;
  readonly commandLine: CommandLine;
  readonly pictures: Pictures;
  readonly sliceGrid: SliceGrid;
  /** The folder in which the page was started: relative paths of flags start here. */
  readonly cwd: string;
  readonly version: string;
  /** Is called when the server ends, to end children that are not runs. */
  onClose(close: () => void | Promise<void>): void;
}
