/**
 * What a user is told when a run's device has no memory left. Figures come from the run: its weights and its
 * optimizer's tensors are counted, the rest is from the allocator; settings that fit are from the estimate. Not
 * here: what other commands say (engine/machine.ts).
 */
import { formatBytes, UserError } from '@minicpm-finetune/run';
import { type DeviceMemory, deviceMemory, OutOfMemoryError } from '@minicpm-finetune/torch';
import { wantedBytes } from '../engine/machine.js';
import { cureFor, roomOf } from './estimate/check.js';
import type { Run } from './run.js';

const LESS = 'Take a smaller --model_max_length or --max_slice_nums, or a device with more memory.';

type Counted = Pick<Run, 'training' | 'optimizer' | 'estimated' | 'ranks'>;

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, number) => all + number, 0);

/** Bytes of the run's tensors that outlive a step. */
function present({ training, optimizer }: Counted): { weights: number; optimizer: number } {
  const parameters = [...training.model.namedParameters()].map(([, parameter]) => parameter);
  const masters = [...optimizer.masters.values()].map(({ nbytes }) => nbytes);
  const moments = [...optimizer.adamw.state.values()].map(({ expAvg, expAvgSq }) => expAvg.nbytes + expAvgSq.nbytes);
  return {
    weights: sum(parameters.map((parameter) => parameter.compact?.nbytes ?? parameter.data.nbytes)),
    optimizer: sum(masters) + sum(moments),
  };
}

/**
 * The message for a run whose device has no memory left. Other errors are returned as they are. To be called while the run is open.
 *
 * @param memory the device's figures
 */
export function explainRunMemory(
  error: unknown,
  run: Counted,
  memory: (device: string) => DeviceMemory = deviceMemory,
): unknown {
  const { device } = run.training;
  if (!(error instanceof OutOfMemoryError)) return error;
  const { allocated, peak, reserved, free, total } = memory(device);
  const wanted = wantedBytes(error);
  const most = Math.max(peak, allocated + wanted);
  const { weights, optimizer } = present(run);
  const room = free + reserved;
  const { estimated } = run;
  const parts = [
    `weights ${formatBytes(weights)}`,
    `optimizer ${formatBytes(optimizer)}`,
    `gradients and activations at least ${formatBytes(Math.max(0, most - weights - optimizer))}`,
    ...(estimated === null ? [] : [`the estimate was ${formatBytes(estimated.likely.deviceBytes)}`]),
  ];
  const others =
    total > 0
      ? `${formatBytes(total)}, of which other programs take ${formatBytes(Math.max(0, total - room))}`
      : 'an unknown size';
  return new UserError(
    `Expected memory for ${wanted > 0 ? `${formatBytes(wanted)} more` : 'another tensor'} on ${device} but received none: a step takes at least ${formatBytes(most)} (${parts.join(', ')}), the allocator keeps ${formatBytes(Math.max(0, reserved - allocated))} for later, and the device has ${others}.`,
    {
      flag: '--device',
      cure: estimated === null ? LESS : cureFor(estimated, room, roomOf(estimated.device, run.ranks.localSize).host),
      cause: error,
    },
  );
}
