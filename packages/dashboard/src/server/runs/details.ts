/** What is shown of one run. Not its series, answers and checkpoints. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { RUN_FILES, type RunConfig, type Say } from '@minicpm-finetune/run';
import type { ConfigEntry, MetricName, Recipe, RunAction, RunDetails, RunStart } from '../../shared/api.js';
import { hasStopFile } from '../process/actions.js';
import { flagWords, shellText } from '../process/command-words.js';
import { hasLog } from '../process/console-log.js';
import { configEntries, settingsOf } from './config-entries.js';
import type { KnownRun } from './known-run.js';
import type { RunRecord, Source } from './run-record.js';
import { yamlOf } from './yaml.js';

/** @param say of the language that the run's sentences are shown in; they are recorded in English */
export function detailsOf(run: KnownRun, record: RunRecord, say: Say): RunDetails {
  const config = configOf(record);
  const { digest } = run;
  const { summary } = run;
  const { start } = record;
  return {
    summary: { ...summary, error: summary.error === null ? null : say(summary.error) },
    start: start === null ? null : { ...start, derived: start.derived.map(say), notices: start.notices.map(say) },
    starts: digest.starts.map(startOf),
    config: config === null ? [] : configEntries(config),
    command: config === null ? '' : commandOf(config),
    metrics: metricsOf(record),
    warnings: record.warnings.map((warning) => ({ ...warning, message: say(warning.message) })),
    memoryPlan: record.memoryPlan,
    system: digest.lastSystem,
    lastStep: digest.lastStep,
    end: record.end,
    damaged: record.damaged,
    actions: actionsOf(run),
    // Before it has started, what its last start was asked is over.
    stopping: run.isLive && ((digest.stopping && run.state !== 'starting') || hasStopFile(run)),
    hasLog: hasLog(run.folder),
    answerSteps: answerSteps(run.folder),
  };
}

/** The configuration as the last start has it; null: no start says it. */
export function configOf({ start }: RunRecord): Partial<RunConfig> | null {
  const config: unknown = start?.config;
  return typeof config === 'object' && config !== null ? config : null;
}

function startOf(digest: KnownRun['digest']['starts'][number], start: number): RunStart {
  const { time, resumedAtStep, lastStep, pid, hostname, cwd, command } = digest;
  return { start, time: time ?? '', resumedAtStep, lastStep, pid, hostname, cwd, command };
}

function metricsOf({ tables }: RunRecord): MetricName[] {
  return (Object.keys(tables) as Source[]).flatMap((source) => {
    const table = tables[source];
    return [...table.metrics.keys()].map((name) => ({ name, source, points: table.pointsOf(name) }));
  });
}

/** What may be done with a run as it stands. */
function actionsOf(run: KnownRun): Record<RunAction, boolean> {
  const { state, isLive } = run;
  const has = run.digest.starts.length > 0;
  return {
    stop: state === 'running' || state === 'probably_running' || state === 'queued',
    save: state === 'running',
    end: state === 'running' || state === 'starting',
    resume: !isLive && state !== 'queued' && state !== 'finished' && run.resumableStep !== null,
    archive: true,
    delete: !isLive,
    duplicate: has,
  };
}

/** Flags that this version knows; others would be refused. */
function commandOf(config: Partial<RunConfig>): string {
  return shellText(['minicpm-finetune', 'train', ...flagWords(knownSettings(config))]);
}

function knownSettings(config: Partial<RunConfig>): Record<string, unknown> {
  const known = new Set(configEntries(config).flatMap(({ name, kind }: ConfigEntry) => (kind === null ? [] : [name])));
  const { output_dir: folder } = config.output ?? {};
  const settings = { ...(folder === undefined ? {} : { output_dir: folder }), ...settingsOf(config) };
  return Object.fromEntries(Object.entries(settings).filter(([name]) => known.has(name)));
}

/** The run's settings, to be repeated elsewhere. */
export function recipeOf(record: RunRecord): Recipe {
  const config = configOf(record);
  if (config === null) return { yaml: '', command: '', values: {} };
  const { output_dir: _, ...values } = knownSettings(config);
  return { yaml: yamlOf(config), command: commandOf(config), values };
}

/** Steps with answers to fixed records, ascending. */
export function answerSteps(folder: string): number[] {
  try {
    return readdirSync(join(folder, RUN_FILES.answers))
      .flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? [])
      .map(Number)
      .sort((a, b) => a - b);
  } catch {
    return [];
  }
}
