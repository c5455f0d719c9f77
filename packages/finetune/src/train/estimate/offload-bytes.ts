/**
 * What offloading changes in an estimate. Where states are, what of the weights comes and goes, and what a unit's gradients
 * take on their way to an update beside the device (parallel/sharding.ts, engine/scattered-sum.ts, engine/optimizer.ts).
 */
import type { RunConfig } from '@minicpm-finetune/run';
import type { DeviceName } from '../../engine/machine.js';
import { isOffloaded } from '../../parallel/offload.js';
import { SMALL_UNIT, shareOf, unitName } from '../../parallel/units.js';
import type { Moment, Rehearsal, Unit } from './rehearsal.js';

export type Where = 'device' | 'host' | 'disk';

/** Where weights and the optimizer's states are. */
export interface Places {
  readonly optimizer: Where;
  readonly params: Where;
}

const whereOf = (setting: string, device: DeviceName): Where =>
  isOffloaded(setting, device) ? (setting === 'cpu' ? 'host' : 'disk') : 'device';

export const placesOf = ({ engine }: RunConfig, device: DeviceName): Places => ({
  optimizer: whereOf(engine.offload_optimizer, device),
  params: whereOf(engine.offload_params, device),
});

export interface OffloadSettings {
  readonly config: RunConfig;
  readonly device: DeviceName;
  readonly world: number;
  readonly places: Places;
}

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, one) => all + one, 0);
const shareOfUnit = (numbers: number, world: number): number => (world === 1 ? numbers : shareOf(numbers, world));
const widthOf = ({ precision: { dtype } }: RunConfig): number => (dtype === 'float32' ? 4 : 2);

/** Whether weights of a unit are beside the device but for visits. Frozen ones on the CPU are pages of the checkpoint file. */
export const isAside = (unit: Unit, of: 'trained' | 'frozen', { places, device }: OffloadSettings): boolean =>
  places.params !== 'device' && unit.bytes >= SMALL_UNIT && !(of === 'frozen' && device === 'cpu');

/** Numbers of weights that a rank has beside the device. */
export function asideNumbers({ units }: Rehearsal, of: 'trained' | 'frozen', settings: OffloadSettings): number {
  return sum(units.map((unit) => (isAside(unit, of, settings) ? shareOfUnit(unit[of], settings.world) : 0)));
}

/** Whether a unit is a token table of whose rows only those that occur have gradients. */
export const isTableOfRows = (unit: string, { rows }: Rehearsal): boolean =>
  rows !== null && unit === unitName('llm.model.embed_tokens.weight');

/** Most bytes of weights that are on the device for a visit: of a unit, and where it is in host memory of the next one too. */
export function visitingBytes({ units }: Rehearsal, settings: OffloadSettings): number {
  const width = widthOf(settings.config);
  const coming = units.map((unit) =>
    sum((['trained', 'frozen'] as const).map((of) => (isAside(unit, of, settings) ? width * unit[of] : 0))),
  );
  const pair = settings.places.params === 'host';
  return Math.max(0, ...coming.map((bytes, i) => bytes + (pair ? (coming[i + 1] ?? 0) : 0)));
}

/** Most numbers of a unit that a rank updates at a time. */
export function updatedAtOnce(rehearsal: Rehearsal, { world }: OffloadSettings): number {
  const whole = rehearsal.units.filter(({ name }) => !isTableOfRows(name, rehearsal));
  return Math.max(0, ...whole.map(({ trained }) => shareOfUnit(trained, world)));
}

/**
 * Bytes beside those of a block's gradients when these leave for their sum: first as autograd has them and in one buffer, then in the buffer and in
 * float32. What else the block keeps is gone by then.
 */
export function leavingBytes({ block, phase, own }: Moment, rehearsal: Rehearsal, settings: OffloadSettings): number {
  const { units } = rehearsal;
  if (settings.places.params === 'device' || phase === 'forward' || isTableOfRows(block, rehearsal)) return 0;
  const trained = units.find(({ name }) => name === block)?.trained ?? 0;
  const width = widthOf(settings.config);
  return Math.max(2 * width * trained, width * trained + 4 * shareOfUnit(trained, settings.world)) - own;
}
