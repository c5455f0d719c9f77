/** Loads the model of a command. Shows what takes time; says what a user should know of adapters and slices. */
import { type LoadedModel, loadModel } from '@minicpm-finetune/minicpm-v';
import type { DeviceName } from '../../engine/machine.js';
import { hashingTask, type Reporter } from '../../report/reporter.js';
import { answerOptions, type ChatOptions } from '../chat/options.js';

/**
 * @param fingerprint the `weights` of the model's identity, where it is known
 * @throws UserError as `loadModel` does
 */
export async function loadForAnswers(
  options: Omit<ChatOptions, 'images' | 'videos' | 'prompt' | 'system'>,
  { device, reporter, fingerprint }: { device: DeviceName; reporter: Reporter; fingerprint?: string },
): Promise<LoadedModel> {
  const { model: folder, adapters, dtype, loadIn8Bit } = options;
  using hashing = hashingTask(reporter);
  const model = await loadModel({
    model: folder,
    adapter: adapters,
    device,
    loadIn8Bit,
    onHash: hashing.update,
    notice: (message) => reporter.notice(message),
    ...(fingerprint === undefined ? {} : { fingerprint }),
    ...(dtype === null ? {} : { dtype }),
  });
  for (const line of model.otherReading(answerOptions(options))) reporter.notice(line);
  return model;
}
