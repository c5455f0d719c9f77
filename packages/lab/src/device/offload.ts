/**
 * Checks of states that are not on the device. Losses beside those of a training without offload, and the most that the
 * device's tensors take.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { parseConfig } from '@minicpm-finetune/processor';
import { TINY_CONFIG } from '../quickstart/tiny-config.js';
import type { Outcome } from './board.js';
import { type Losses, makeModel, type Place, trainIn } from './place.js';
import { allowedAfter } from './training.js';

const STEPS = 6;
/** Large enough that layers come and go, and that what is offloaded stands out. */
const CONFIG = parseConfig(
  JSON.stringify({ ...TINY_CONFIG, hidden_size: 512, intermediate_size: 1536, num_hidden_layers: 6 }),
  'check:device',
);
/** Numbers of the layers alone. */
const { hiddenSize: D, numLayers, intermediateSize } = CONFIG.llm;
const LAYERS = numLayers * D * (3 * D + 3 * intermediateSize);

const KINDS = {
  optimizer: (_folder: string) => ({ offload_optimizer: 'cpu' }),
  params: (_folder: string) => ({ offload_params: 'cpu' }),
  folder: (folder: string) => ({ offload_optimizer: folder, offload_params: folder }),
} as const;

/** Bytes of a number that are not among the device's tensors with offload. Weights on the CPU never are: they are pages of the checkpoint. */
function bytesAside(device: string, kind: keyof typeof KINDS): number {
  if (device === 'cpu') return kind === 'folder' ? 8 : 0;
  return kind === 'optimizer' ? 8 : 8 + 4;
}

const WITHOUT = new Map<string, Losses>();

/** Trains in float32 with and without offload. On the CPU host memory is what it has already: there only a folder takes memory away. */
export async function offloaded(place: Place, device: string, kind: keyof typeof KINDS): Promise<Outcome> {
  const model = join(place.folder, 'larger');
  if (!existsSync(model)) makeModel(model, CONFIG);
  const larger = { ...place, model };
  const states = join(place.folder, 'states');
  const without = WITHOUT.get(device) ?? (await trainIn(larger, 'offload-none', device, STEPS));
  WITHOUT.set(device, without);
  const own = await trainIn(larger, `offload-${kind}`, device, STEPS, KINDS[kind](states));
  const loss = Math.max(...own.losses.map((value, i) => Math.abs(value / without.losses[i]! - 1)));
  const allowed = device === 'cpu' ? 0 : allowedAfter(STEPS); // there the update runs on the CPU, which rounds in another order
  const most = without.peak - 0.8 * bytesAside(device, kind) * LAYERS;
  const mib = (value: number): string => (value / 2 ** 20).toFixed(0);
  const left = existsSync(states);
  return {
    ok: own.losses.length === STEPS && loss <= allowed && own.peak <= most && !left,
    found:
      `loss differs by ${loss.toExponential(1)} (allowed ${allowed.toExponential(1)}); tensors took ${mib(own.peak)} MiB ` +
      `at most, ${mib(without.peak)} without (allowed ${mib(most)})${left ? '; the folder is still there' : ''}`,
    figures: { loss, peak: own.peak, without: without.peak, most, losses: own.losses, beside: without.losses },
  };
}
