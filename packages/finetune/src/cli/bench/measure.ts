/** Measures training steps without leaving files behind. The steps are those of a real training. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RunConfig } from '@minicpm-finetune/run';
import { ENGLISH, formatBytes, OwnFiles, padEnd, padStart, type Say } from '@minicpm-finetune/run';
import { yieldToEventLoop } from '@minicpm-finetune/torch';
import type { Loader } from '../../data/loader.js';
import { collateAll } from '../../engine/collate.js';
import { startEngine } from '../../engine/machine.js';
import { traced } from '../../engine/profiler.js';
import { trainStep } from '../../engine/step.js';
import { asTask, type Reporter } from '../../report/reporter.js';
import { RunLog } from '../../report/run-log.js';
import { openLoader, optimizerSteps } from '../../train/open-data.js';
import { withReference } from '../../train/preference.js';
import { closeRun, openRun, type Run, stepOptions } from '../../train/run.js';
import { freshState } from '../../train/state.js';
import { type Measurement, StepMeter } from './meter.js';

/** Steps in front that are not counted: moments are made, kernels chosen. */
const WARMUP = 2;

export interface MeasureOptions {
  readonly reporter?: Reporter;
  /** Aborting it ends the measurement after the step under way. */
  readonly signal?: AbortSignal;
}

/**
 * Trains `steps` steps, after some that are not counted, and forgets the result. Null if it was stopped before a step was counted.
 *
 * @throws UserError as `train` does
 */
export async function measureTraining(
  config: RunConfig,
  steps: number,
  { reporter, signal }: MeasureOptions = {},
): Promise<Measurement | null> {
  startEngine(config.engine);
  const folder = mkdtempSync(join(tmpdir(), 'minicpm-finetune-bench-'));
  const total = WARMUP + steps;
  const own: RunConfig = {
    ...config,
    output: { ...config.output, output_dir: folder },
    schedule: { ...config.schedule, max_steps: total },
    save: { ...config.save, save_strategy: 'no', resume_from_checkpoint: null },
    logging: { ...config.logging, report_to: [], profile: 0 },
  };
  const log = new RunLog(own, { reporter });
  try {
    return await measure(own, log, total, signal);
  } finally {
    log.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measure(
  config: RunConfig,
  log: RunLog,
  total: number,
  signal: AbortSignal | undefined,
): Promise<Measurement | null> {
  const run = await openRun(
    config,
    log,
    { state: freshState(), checkpoint: null, output: { own: new OwnFiles(config.output.output_dir), earlier: [] } },
    { signal },
  );
  const steps = { start: 0, end: total, knownBad: run.state.badRecords };
  const loader = await openLoader(config, run.data, steps, log.reporter, run.ranks);
  try {
    const task = { label: 'Measuring', total, unit: 'steps' };
    return await asTask(log.reporter, task, (update) => measureSteps(run, loader, update));
  } finally {
    await loader.close();
    await closeRun(run);
  }
}

async function measureSteps(run: Run, loader: Loader, update: (steps: number) => void): Promise<Measurement | null> {
  const { optimizer, training, state } = run;
  const meter = new StepMeter(training.model, optimizer, run.config.precision.dtype, training.device);
  for await (const micros of optimizerSteps(loader)) {
    const known = micros.map((micro) => withReference(run.preference, run.data.train, micro));
    const batches = traced(meter, 'collate', 'data', () => collateAll(known, training.device)).filter(
      (batch) => batch !== null,
    );
    if (batches.length === 0) continue;
    const options = { ...stepOptions(run), profile: meter };
    meter.step(batches, loader.dataWaitSeconds, () =>
      trainStep(training.model, batches, optimizer, run.schedule(state.step), options),
    );
    run.memory?.endStep();
    state.step++;
    if (state.step === WARMUP) meter.restart();
    update(state.step);
    if (run.stop.reason !== null) break;
    await yieldToEventLoop();
  }
  return state.step > WARMUP ? meter.measurement() : null;
}

const gigaflops = (perSecond: number): string => `${(perSecond / 1e9).toFixed(0)} GFLOP/s`;

/** The figures as a table. */
export function describeFigures({ seconds, steps, memory, ...rates }: Measurement, say: Say = ENGLISH): string {
  const step = [...seconds.values()].reduce((sum, part) => sum + part, 0);
  const row = (name: string, value: string, share = ''): string =>
    `  ${padEnd(say(name), 32)}${padStart(value, 12)}${share}`;
  const parts = [...seconds].filter(([, value]) => value > 0);
  return [
    say(`A step, mean of ${steps}:`),
    ...parts.map(([name, value]) =>
      row(name, `${(1000 * value).toFixed(1)} ms`, `${((100 * value) / step).toFixed(1)} %`.padStart(9)),
    ),
    row('in all', `${(1000 * step).toFixed(1)} ms`),
    say(`Speed: ${rates.samplesPerSecond.toFixed(2)} samples/s, ${rates.tokensPerSecond.toFixed(0)} tokens/s`),
    say(
      `Blocks of the language model: ${gigaflops(rates.languageFlops)} = ${((100 * rates.languageFlops) / rates.matmulFlops).toFixed(0)} % of the ${gigaflops(rates.matmulFlops)} of plain matrix products`,
    ),
    say('Memory, each at its highest:'),
    ...[...memory].map(([name, bytes]) => row(name, formatBytes(bytes))),
  ].join('\n');
}
