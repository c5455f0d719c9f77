/**
 * What offloading changes in an estimate. Where states are, and what of the weights comes and goes (parallel/sharding.ts,
 * engine/optimizer.ts).
 */
import type { RunConfig } from '@minicpm-finetune/run';
import type { DeviceName } from '../../engine/machine.js';
import { isOffloaded } from '../../parallel/offload.js';
import { SMALL_UNIT, shareOf } from '../../parallel/units.js';
import type { Rehearsal, Unit } from './rehearsal.js';

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

/** Whether a process shares the model out: with others, or with the memory beside the device. */
export const isShared = ({ world, places }: { readonly world: number; readonly places: Places }): boolean =>
  world > 1 || places.params !== 'device';

/** Whether weights of a unit that do not stay are beside the device but for visits. */
export const isAside = ({ bytes }: Unit, { params }: Places): boolean => params !== 'device' && bytes >= SMALL_UNIT;

/** Most numbers of a unit that a rank updates at a time. */
export function updatedAtOnce({ units, table }: Rehearsal, world: number): number {
  const whole = units.filter(({ name }) => name !== table);
  return Math.max(0, ...whole.map(({ trained }) => (world === 1 ? trained : shareOf(trained, world))));
}
