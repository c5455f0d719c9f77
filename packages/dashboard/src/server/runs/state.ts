/**
 * How a run stands. As its last event says, or, without one, whether its process is there. A process is known by its id and its start on this
 * machine; of another machine only the growth of the file tells. Pure but for `isAlive`, which asks the system.
 */
import { isHolderGone, type LockHolder, runningProcess, thisProcess } from '@minicpm-finetune/run';
import type { RunState } from '../../shared/api.js';
import type { Launch } from '../process/launch-record.js';
import type { StartDigest } from './digest.js';

/** What is known of a run. */
export interface Standing {
  readonly start: StartDigest | null;
  readonly end: 'finished' | 'stopped' | 'failed' | null;
  /** Milliseconds since 1970: when the file last grew. */
  readonly grew: number;
  readonly stepSeconds: number | null;
  /** Null: nobody holds the folder, or it is not known. */
  readonly lock: LockHolder | null;
  readonly lockPath: string;
  /** Null: the page did not start it. */
  readonly launch: Launch | null;
}

/** Shortest silence after which a run of another machine counts as gone, in seconds. */
const SILENCE = 60;
/** A longer one, in optimizer steps. */
const SILENT_STEPS = 10;

/** Whether the process that is known by id and start runs on this machine. `start` null: only its id is known. */
export function isAlive(pid: number, start: string | null): boolean {
  const found = runningProcess(pid);
  return found !== undefined && (start === null || found.start === null || found.start === start);
}

/** @param now milliseconds since 1970 */
export function stateOf(standing: Standing, now: number): RunState {
  const { start, end, launch } = standing;
  if (launch !== null && isAfter(launch, start)) {
    if (launch.pid === null) return 'queued';
    if (launch.hostname === thisProcess().host && isAlive(launch.pid, launch.processStart)) return 'starting';
    if (start === null) return 'failed';
  }
  if (end !== null) return end;
  return runningState(standing, now);
}

/** Whether the page started the run later than its last start that is known. Of one process it is that start, whatever the clock said. */
export function isAfter({ time, pid, processStart, hostname }: Launch, start: StartDigest | null): boolean {
  const isSame =
    start !== null &&
    pid !== null &&
    start.pid === pid &&
    start.processStart === processStart &&
    start.hostname === hostname;
  return !isSame && (start?.time == null || time > start.time);
}

function runningState({ start, lock, lockPath, grew, stepSeconds }: Standing, now: number): RunState {
  const own = thisProcess();
  if (lock !== null) {
    if (isHolderGone(lock, lockPath)) return 'killed';
    if (lock.host === own.host && lock.machine === own.machine && lock.namespace === own.namespace) return 'running';
  } else if (start !== null && start.pid !== null && start.hostname === own.host) {
    return isAlive(start.pid, start.processStart) ? 'running' : 'killed';
  }
  const silence = 1000 * Math.max(SILENCE, SILENT_STEPS * (stepSeconds ?? 0));
  return now - grew <= silence ? 'probably_running' : 'killed';
}
