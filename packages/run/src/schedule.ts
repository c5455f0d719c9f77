/**
 * Learning-rate schedules as pure functions of the step. They return multipliers of the peak learning rate.
 *
 * Numerically those of `transformers.optimization` (and, for WarmupLR, of DeepSpeed's `runtime/lr_schedules.py`).
 * `step` counts optimizer steps already done, so the first step asks for `schedule(0)`.
 */
import type { ScheduleConfig, SchedulerType } from './config/config.js';
import { nearestName } from './nearest-name.js';
import { shown } from './shown.js';
import type { Problem } from './user-error.js';

/** The inputs of a schedule. Steps are optimizer steps. */
export interface ScheduleInputs {
  totalSteps: number;
  warmupSteps: number;
  /** Peak learning rate of the first parameter group: polynomial and WarmupLR have ends in absolute units. */
  learningRate: number;
}

/** Multiplier of the peak learning rate for the step after `step` finished ones. */
export type Schedule = (step: number) => number;

/** An option of `--lr_scheduler_kwargs`. Default null: derived, or required. */
interface OptionSpec {
  default: number | string | null;
  choices?: readonly string[];
  required?: boolean;
}

type Options = Record<string, number | string | null>;

interface ScheduleSpec {
  /** Whether warmup steps mean anything to it. */
  warmup: boolean;
  options: Record<string, OptionSpec>;
  multiplier(step: number, inputs: ScheduleInputs, options: Options): number;
}

const SHAPES = ['linear', 'cosine', '1-sqrt'] as const;

export const SCHEDULES: Readonly<Record<SchedulerType, ScheduleSpec>> = {
  linear: { warmup: true, options: {}, multiplier: linear },
  cosine: {
    warmup: true,
    options: { num_cycles: { default: 0.5 } },
    multiplier: (step, inputs, { num_cycles }) =>
      warmedUp(step, inputs, (p) => 0.5 * (1 + Math.cos(Math.PI * Number(num_cycles) * 2 * p))),
  },
  cosine_with_restarts: {
    warmup: true,
    options: { num_cycles: { default: 1 } },
    multiplier: (step, inputs, { num_cycles }) =>
      warmedUp(step, inputs, (p) => (p >= 1 ? 0 : 0.5 * (1 + Math.cos(Math.PI * ((Number(num_cycles) * p) % 1))))),
  },
  polynomial: { warmup: true, options: { lr_end: { default: 1e-7 }, power: { default: 1 } }, multiplier: polynomial },
  constant: { warmup: false, options: {}, multiplier: () => 1 },
  constant_with_warmup: { warmup: true, options: {}, multiplier: (step, inputs) => warmedUp(step, inputs, () => 1) },
  inverse_sqrt: { warmup: true, options: { timescale: { default: null } }, multiplier: inverseSqrt },
  warmup_stable_decay: {
    warmup: true,
    options: {
      num_decay_steps: { default: null, required: true },
      num_stable_steps: { default: null },
      warmup_type: { default: 'linear', choices: SHAPES },
      decay_type: { default: 'cosine', choices: SHAPES },
      min_lr_ratio: { default: 0 },
      num_cycles: { default: 0.5 },
    },
    multiplier: warmupStableDecay,
  },
  WarmupLR: {
    warmup: true,
    options: {
      warmup_min_lr: { default: 0 },
      warmup_max_lr: { default: null },
      warmup_num_steps: { default: null },
      warmup_type: { default: 'log', choices: ['log', 'linear'] },
    },
    multiplier: warmupLR,
  },
};

/** The schedule of a run, whose configuration has no `scheduleProblem`. */
export function makeSchedule(
  config: Pick<ScheduleConfig, 'lr_scheduler_type' | 'lr_scheduler_kwargs'>,
  inputs: ScheduleInputs,
): Schedule {
  const { multiplier, options: specs } = SCHEDULES[config.lr_scheduler_type];
  const defaults = Object.entries(specs).map(([name, spec]) => [name, spec.default]);
  const options: Options = { ...Object.fromEntries(defaults), ...config.lr_scheduler_kwargs };
  return (step) => multiplier(step, inputs, options);
}

/** Optimizer steps of warmup out of `totalSteps`, by transformers' rules: steps before ratio, shares rounded up. */
export function warmupSteps(config: Pick<ScheduleConfig, 'warmup_steps' | 'warmup_ratio'>, totalSteps: number): number {
  if (config.warmup_steps >= 1) return Math.trunc(config.warmup_steps);
  return Math.ceil(totalSteps * (config.warmup_steps > 0 ? config.warmup_steps : config.warmup_ratio));
}

/** What is wrong with the options of a schedule: an unknown name, a missing or an impossible value; undefined: nothing. */
export function scheduleProblem(
  type: SchedulerType,
  given: Readonly<Record<string, unknown>>,
  learningRate: number,
): Problem | undefined {
  const specs = SCHEDULES[type].options;
  for (const [name, value] of Object.entries(given)) {
    const spec = Object.hasOwn(specs, name) ? specs[name] : undefined;
    const problem = spec === undefined ? unknownOption(type, name) : optionProblem(name, value, spec);
    if (problem !== undefined) return problem;
  }
  for (const [name, spec] of Object.entries(specs)) {
    if (!spec.required || given[name] !== undefined) continue;
    const cure = `Give it as --lr_scheduler_kwargs '{"${name}": 100}'.`;
    return { expected: `a number for ${name} of the ${type} schedule`, received: 'nothing', cure };
  }
  const end = given.lr_end ?? specs.lr_end?.default;
  if (type !== 'polynomial' || learningRate > Number(end)) return undefined;
  const cure = 'Give a smaller lr_end, or a larger --learning_rate.';
  return { expected: `less than --learning_rate (${learningRate}) for lr_end`, received: shown(end), cure };
}

function unknownOption(type: SchedulerType, name: string): Problem {
  const names = Object.keys(SCHEDULES[type].options);
  const near = nearestName(name, names);
  const known = names.length === 0 ? 'It has no options.' : `It knows ${names.join(', ')}.`;
  return {
    expected: `an option of the ${type} schedule`,
    received: shown(name),
    cure: `${near === undefined ? '' : `Did you mean ${near}? `}${known}`,
  };
}

function optionProblem(name: string, value: unknown, { choices }: OptionSpec): Problem | undefined {
  const received = shown(value);
  if (choices !== undefined) {
    if (choices.includes(value as string)) return undefined;
    return { expected: `one of ${choices.join(', ')} for ${name}`, received, cure: 'Choose one of them.' };
  }
  if (typeof value === 'number' && value >= 0 && Number.isFinite(value)) return undefined;
  const cure = 'Write it without quotes, such as 0.5.';
  return { expected: `a number of at least 0 for ${name}`, received, cure };
}

/** Linear warmup from 0, then `rest(progress)` with progress from 0 to 1 over the remaining steps, never below 0. */
function warmedUp(step: number, inputs: ScheduleInputs, rest: (progress: number) => number): number {
  const { totalSteps, warmupSteps: warmup } = inputs;
  if (step < warmup) return step / Math.max(1, warmup);
  return Math.max(0, rest((step - warmup) / Math.max(1, totalSteps - warmup)));
}

function linear(step: number, inputs: ScheduleInputs): number {
  const { totalSteps, warmupSteps: warmup } = inputs;
  // Not 1 - progress: transformers divides the steps that are left, which rounds differently.
  return warmedUp(step, inputs, () => (totalSteps - step) / Math.max(1, totalSteps - warmup));
}

function polynomial(step: number, inputs: ScheduleInputs, options: Options): number {
  const { totalSteps, warmupSteps: warmup, learningRate } = inputs;
  const end = Number(options.lr_end);
  if (step < warmup) return step / Math.max(1, warmup);
  if (step > totalSteps) return end / learningRate;
  const remaining = 1 - (step - warmup) / Math.max(1, totalSteps - warmup);
  return ((learningRate - end) * remaining ** Number(options.power) + end) / learningRate;
}

function inverseSqrt(step: number, { warmupSteps: warmup }: ScheduleInputs, options: Options): number {
  const timescale = options.timescale === null ? warmup || 10_000 : Number(options.timescale);
  if (step < warmup) return step / Math.max(1, warmup);
  return 1 / Math.sqrt((step + timescale - warmup) / timescale);
}

/** Warmup to the peak, a plateau, decay to the floor (Hu et al. 2024, the MiniCPM paper). */
function warmupStableDecay(
  step: number,
  { totalSteps, warmupSteps: warmup }: ScheduleInputs,
  options: Options,
): number {
  const floor = Number(options.min_lr_ratio);
  const decaySteps = Number(options.num_decay_steps);
  const stableSteps =
    options.num_stable_steps === null ? totalSteps - warmup - decaySteps : Number(options.num_stable_steps);
  const above = (factor: number) => Math.max(0, factor * (1 - floor) + floor);
  if (step < warmup) {
    const progress = step / Math.max(1, warmup);
    if (options.warmup_type === 'linear') return above(progress);
    if (options.warmup_type === 'cosine') return above(0.5 * (1 - Math.cos(Math.PI * progress)));
    return above(1 - Math.sqrt(1 - progress));
  }
  if (step < warmup + stableSteps) return 1;
  if (step < warmup + stableSteps + decaySteps) {
    const progress = (step - warmup - stableSteps) / Math.max(1, decaySteps);
    if (options.decay_type === 'linear') return above(1 - progress);
    if (options.decay_type === '1-sqrt') return above(1 - Math.sqrt(progress));
    return above(0.5 * (1 + Math.cos(Math.PI * Number(options.num_cycles) * 2 * progress)));
  }
  return floor;
}

/**
 * DeepSpeed's WarmupLR, constant after the warmup. It starts at iteration -1, so the first two steps both use the
 * lower end; its warmup is logarithmic unless told otherwise and takes two steps at least.
 */
function warmupLR(step: number, inputs: ScheduleInputs, options: Options): number {
  const { learningRate } = inputs;
  const low = Number(options.warmup_min_lr);
  const high = options.warmup_max_lr === null ? learningRate : Number(options.warmup_max_lr);
  const steps = Math.max(2, options.warmup_num_steps === null ? inputs.warmupSteps : Number(options.warmup_num_steps));
  const iteration = step - 1;
  let gamma = 1;
  if (iteration < 0) gamma = 0;
  else if (iteration < steps) {
    gamma = options.warmup_type === 'linear' ? iteration / steps : (1 / Math.log(steps)) * Math.log(iteration + 1);
  }
  return (low + (high - low) * gamma) / learningRate;
}
