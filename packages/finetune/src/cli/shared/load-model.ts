/** Loads the model of a command and shows what takes time. */
import { type LoadedModel, loadModel } from '@minicpm-finetune/minicpm-v';
import type { DeviceName } from '../../engine/machine.js';
import { hashingTask, type Reporter } from '../../report/reporter.js';
import type { ChatOptions } from '../chat/options.js';

/**
 * @param fingerprint the `weights` of the model's identity, where it is known
 * @throws UserError as `loadModel` does
 */
export async function loadForAnswers(
  { model, adapters, dtype }: Pick<ChatOptions, 'model' | 'adapters' | 'dtype'>,
  { device, reporter, fingerprint }: { device: DeviceName; reporter: Reporter; fingerprint?: string },
): Promise<LoadedModel> {
  using hashing = hashingTask(reporter);
  return await loadModel({
    model,
    adapter: adapters,
    device,
    onHash: hashing.update,
    ...(fingerprint === undefined ? {} : { fingerprint }),
    ...(dtype === null ? {} : { dtype }),
  });
}
