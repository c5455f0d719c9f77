/** The model flag, resolved to a folder. All commands that use a model share it. */
import type { Flag } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import { type CommandIO, flagValue, requiredValue } from '../cli-command.js';

/**
 * The folder of the model that flag `name` names, downloaded if it is not there; `flags` have `cache_dir`, too.
 *
 * @param stderr for the notice of a download and its progress.
 * @param weights false where tokenizer and configuration are enough.
 * @throws UserError without a value, and as `resolveModel` does
 */
export async function modelFolder(
  given: GivenValues,
  flags: readonly Flag[],
  name: string,
  { stderr, say }: CommandIO,
  weights = true,
): Promise<string> {
  const argument = requiredValue<string>(given, flags, name);
  const cacheDir = flagValue<string | null>(given, flags.find((flag) => flag.name === 'cache_dir')!);
  const [{ resolveModel }, { Progress }] = await Promise.all([
    import('../../hub/hub.js'),
    import('../../report/progress.js'),
  ]);
  const progress = new Progress({ stream: stderr, say });
  try {
    return await resolveModel(argument, {
      flag: `--${name}`,
      cacheDir,
      reporter: progress,
      weights,
      ...(flags.some((flag) => flag.name === 'adapter') ? { adapterFlag: '--adapter' as const } : {}),
    });
  } finally {
    progress.close();
  }
}
