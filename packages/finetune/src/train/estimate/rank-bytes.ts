/**
 * What one rank of several takes. From a step that was rehearsed alone: shares of the states, gradients in float32 as their owner sums them,
 * and the blocks and gradients that are on their way (parallel/sharding.ts, engine/scattered-sum.ts).
 */
import type { RunConfig } from '@minicpm-finetune/run';
import type { DeviceName } from '../../engine/machine.js';
import type { Stage } from '../../parallel/sharding.js';
import { SMALL_UNIT, shareOf } from '../../parallel/units.js';
import type { Moment } from './moments.js';
import { isAside, isShared, type Places, updatedAtOnce } from './offload-bytes.js';
import type { Rehearsal, Unit } from './rehearsal.js';

/** Numbers of a rank's share that are summed at a time: the room for those of the others (packages/torch, group). */
const PIECE = 4 << 20;

export interface RankSettings {
  readonly config: RunConfig;
  readonly device: DeviceName;
  readonly world: number;
  /** 0 for a process alone. */
  readonly stage: Stage;
  readonly places: Places;
}

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, one) => all + one, 0);

/** Of a number of weights. */
const bytesEach = ({ precision: { dtype } }: RunConfig): number => (dtype === 'float32' ? 4 : 2);

const shareOfUnit = (numbers: number, world: number): number => (world === 1 ? numbers : shareOf(numbers, world));

const unitOf = ({ units }: Rehearsal, name: string): Unit | undefined => units.find((unit) => unit.name === name);

/** Whether frozen weights of a unit stay on every rank: on a CPU they are pages of the checkpoint file, which all share. */
const isMapped = ({ device, config }: RankSettings, { storedDtype }: Rehearsal): boolean =>
  device === 'cpu' && storedDtype === config.precision.dtype;

/** Of the weights that train, those that do not, and those in a compact form: the part that a rank keeps. */
export interface KeptWeights {
  readonly trained: number;
  readonly frozen: number;
  readonly compact: number;
}

export function keptWeights(rehearsal: Rehearsal, settings: RankSettings): KeptWeights {
  const { stage, world, places } = settings;
  const whole = (unit: Unit): boolean => stage < 3 || unit.bytes < SMALL_UNIT;
  const part = (unit: Unit, numbers: number): number => (isAside(unit, places) ? 0 : shareOfUnit(numbers, world));
  const kept = (of: 'trained' | 'frozen' | 'compact', stays: boolean): number => {
    const all = sum(rehearsal.units.map((unit) => unit[of]));
    if (all === 0) return 1;
    const own = rehearsal.units.map((unit) => (stays || whole(unit) ? unit[of] : part(unit, unit[of])));
    return sum(own) / all;
  };
  return {
    trained: kept('trained', false),
    frozen: kept('frozen', isMapped(settings, rehearsal)),
    compact: kept('compact', false),
  };
}

/** Numbers of weights that a rank has beside the device. */
export function asideNumbers(rehearsal: Rehearsal, of: 'trained' | 'frozen', settings: RankSettings): number {
  if (of === 'frozen' && isMapped(settings, rehearsal)) return 0;
  const aside = rehearsal.units.filter((unit) => isAside(unit, settings.places));
  return sum(aside.map((unit) => shareOfUnit(unit[of], settings.world)));
}

/** The numbers of the optimizer that a rank has, of all. */
export function optimizerShare({ units, trainedNumbers }: Rehearsal, { world, stage }: RankSettings): number {
  if (stage === 0 || trainedNumbers === 0) return 1;
  return sum(units.map(({ trained }) => shareOfUnit(trained, world))) / trainedNumbers;
}

/** Moments of a token table are of the rows that occurred: each rank has those of its rows that occurred on any rank. */
export function momentBytes(rehearsal: Rehearsal, settings: RankSettings): number {
  const { moments, rows } = rehearsal;
  const dense = (moments - (rows?.moments ?? 0)) * optimizerShare(rehearsal, settings);
  if (rows === null) return dense;
  const own = settings.stage === 0 ? rows.seen : Math.min(rows.seen, Math.ceil(rows.of / settings.world));
  return dense + (rows.moments * own) / rows.seen;
}

/** Gradients that are there at a moment. */
export function gradientBytes(moment: Moment, rehearsal: Rehearsal, settings: RankSettings): number {
  const { config, world, stage } = settings;
  if (config.engine.fused_backward) return moment.phase === 'update' ? 0 : moment.own;
  const alone = world === 1 && !rehearsal.summed; // a sum of one is in the type of the weights at last
  if (!isShared(settings) || (alone && moment.phase === 'update')) return sum(moment.gradients.values());
  const summed = [...moment.gradients.keys()].filter((unit) => rehearsal.summed || unit !== moment.block);
  const sums = sum(summed.map((unit) => sumBytes(unit)));
  const whole = stage === 0 && moment.phase === 'update' ? sum(rehearsal.units.map(({ trained }) => 4 * trained)) : 0;
  return (rehearsal.summed ? 0 : moment.own) + sums + whole;

  /** Of a table: as many rows as occur on a rank. */
  function sumBytes(name: string): number {
    if (rehearsal.rows?.unit === name) return rehearsal.rows.gradient;
    return 4 * shareOfUnit(unitOf(rehearsal, name)?.trained ?? 0, world);
  }
}

/** Bytes that a moment takes beside weights, states, gradients and what is on its way. */
export function workingBytes(moment: Moment, rehearsal: Rehearsal, settings: RankSettings): number {
  const { places, device } = settings;
  const { fused_backward: fused } = settings.config.engine;
  if (moment.phase === 'update') {
    if (fused) return 0;
    if (places.optimizer !== 'device')
      return device === 'cpu' && rehearsal.copied > 0 ? 4 * updatedAtOnce(rehearsal, settings.world) : 0;
    const sums = !isShared(settings) ? 0 : rehearsal.copied; // sums of several ranks are float32 already
    return Math.max(0, moment.working - sums) * optimizerShare(rehearsal, settings);
  }
  if (!fused || moment.phase === 'forward' || rehearsal.masters === 0) return moment.working;
  if (places.optimizer !== 'device' && device !== 'cpu') return moment.working; // the copy is in host memory
  if (settings.world === 1 && isShared(settings)) return moment.working; // the sum that it is made of took as much (transitAt)
  const trained = unitOf(rehearsal, moment.block)?.trained ?? 0;
  const own = settings.stage === 0 ? trained : shareOfUnit(trained, settings.world);
  return Math.max(moment.working, moment.kept + 4 * own); // the update's gradient in float32
}

/** What a rank has of others, and for others, at a moment. */
export interface Transit {
  /** Weights of the block and of the one that comes next. */
  readonly weights: number;
  /** Gradients of a block in one buffer, from which shares go to their owners, and room for what comes. */
  readonly gradients: number;
}

/**
 * Answers of an evaluation under stage 3: all weights are gathered for them. Beside these a block's forward pass, and nothing of a step; null:
 * there are none.
 */
export function answersMoment({ steps }: Rehearsal, settings: RankSettings): Moment | null {
  if (settings.config.eval.eval_generate === 0 || settings.stage < 3 || !isShared(settings)) return null;
  const forward = steps.filter(({ phase }) => phase === 'forward');
  const working = Math.max(0, ...forward.map((one) => one.working - one.kept));
  return { phase: 'answers', block: '', working, kept: 0, gradients: new Map(), own: 0 };
}

/** At the backward pass of a block: while it is computed, and when its gradients leave. */
export function transitAt(moment: Moment, rehearsal: Rehearsal, settings: RankSettings): Transit {
  const { world, stage, config, places } = settings;
  if (!isShared(settings) || moment.phase === 'update') return { weights: 0, gradients: 0 };
  const { units } = rehearsal;
  if (moment.phase === 'answers') return { weights: sum(units.map(gathered)), gradients: 0 };
  const at = units.findIndex(({ name }) => name === moment.block);
  const backward = moment.phase === 'backward' || moment.phase === 'recompute';
  const [own, next, previous] = [units[at], units[backward ? at - 1 : at + 1], units[at + 1]];
  const ahead = places.params === 'disk' ? 0 : comes(next); // files are read ahead into the page cache
  const computing = comes(own) + (moment.phase === 'loss' ? 0 : ahead);
  if (moment.phase === 'forward') return { weights: computing, gradients: 0 };
  const leaving = buffer(own) + Math.max(room(own), sumOf(own) - moment.own);
  const held = moment.phase === 'loss' || world === 1 ? 0 : buffer(previous);
  // Computed: the block's own inside, and the buffer of the one before. Leaving: inputs alone, and the buffer of its own.
  const spare = moment.working - moment.kept;
  const more = Math.max(computing + held, leaving + (backward ? ahead : 0) - spare);
  const weights = Math.min(more, computing);
  return { weights, gradients: more - weights };

  /** Bytes of a unit that come for a visit. */
  function comes(unit: Unit | undefined): number {
    return unit === undefined || unit.name === rehearsal.table ? 0 : gathered(unit);
  }

  function gathered(unit: Unit): number {
    if (stage < 3 || unit.bytes < SMALL_UNIT) return 0;
    const frozen = isMapped(settings, rehearsal) ? 0 : unit.frozen;
    return bytesEach(config) * (unit.trained + frozen) + unit.compact;
  }

  function buffer(unit: Unit | undefined): number {
    return unit === undefined || unit.name === rehearsal.table ? 0 : bytesEach(config) * unit.trained;
  }

  /** Of a unit's gradients, beside those as autograd has them: nothing where all are summed already. */
  function sumOf(unit: Unit | undefined): number {
    if (unit === undefined || unit.name === rehearsal.table || rehearsal.summed) return 0;
    return 4 * shareOfUnit(unit.trained, world);
  }

  function room(unit: Unit | undefined): number {
    if (unit === undefined || unit.trained === 0 || unit.name === rehearsal.table) return 0;
    return bytesEach(config) * (world - 1) * Math.min(shareOf(unit.trained, world), PIECE);
  }
}
