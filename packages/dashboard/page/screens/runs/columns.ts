/** What the list of runs is sorted by. */
import type { Method, RunSummary } from '../../../src/shared/api.js';
import type { SortValue } from '../../kit/sort.js';

/** Order of the states: what is going first. */
const STATES = ['running', 'probably_running', 'starting', 'queued', 'failed', 'killed', 'stopped', 'finished'];

const instant = (time: string | null): number | null => (time === null ? null : Date.parse(time));

/** Whether its process may be there. */
export const isGoing = ({ state }: RunSummary): boolean =>
  state === 'running' || state === 'probably_running' || state === 'starting';

/** A key for each column of the list. */
export const SORT_KEYS = {
  star: (run) => Number(run.notes.star),
  state: (run) => -STATES.indexOf(run.state),
  name: (run) => run.name,
  model: (run) => run.model,
  method: (run) => (run.method === null ? null : `${run.method.kind} ${run.method.preference ?? ''} ${run.method.r}`),
  step: (run) => run.step,
  eta: (run) => (isGoing(run) ? run.etaSeconds : null),
  loss: (run) => run.loss,
  evalLoss: (run) => run.bestEvalLoss?.value,
  metric: (run) => run.bestMetric?.value,
  tokens: (run) => run.tokensPerSecond,
  memory: (run) => run.peakMemory,
  started: (run) => instant(run.started),
  duration: (run) => run.durationSeconds,
} as const satisfies Readonly<Record<string, (run: RunSummary) => SortValue>>;

export type SortColumn = keyof typeof SORT_KEYS;

/** Columns that only some runs fill: they are left out while no shown run does. */
const OPTIONAL: readonly SortColumn[] = ['eta', 'evalLoss', 'metric'];

/** The columns of a list of these runs. */
export const columnsOf = (runs: readonly RunSummary[]): SortColumn[] =>
  SORT_COLUMNS.filter(
    (column) => !OPTIONAL.includes(column) || runs.some((run) => (SORT_KEYS[column](run) ?? null) !== null),
  );

const SORT_COLUMNS = Object.keys(SORT_KEYS) as SortColumn[];

/** What trains in words, such as `LoRA r64`; `full` is the word of the language. */
export function methodName(method: Method | null, full: string): string | undefined {
  if (method === null) return undefined;
  const kind = { full, lora: 'LoRA', qlora: 'QLoRA' }[method.kind];
  const rank = method.kind === 'full' || method.r === null ? '' : ` r${method.r}`;
  return `${kind}${rank}${method.preference === null ? '' : ` ${method.preference.toUpperCase()}`}`;
}

/** The last word of a path: models are known by it. */
export const lastName = (path: string | null): string | undefined => path?.split(/[\\/]/).filter(Boolean).at(-1);
