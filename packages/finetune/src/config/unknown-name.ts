/** The refusal of an unknown flag, key or command, with the nearest known name. */
import { nearestName, UserError } from '@minicpm-finetune/run';

/** The error for `name`; `otherwise` says where all known names are listed. */
export function unknownName(name: string, what: string, known: readonly string[], otherwise: string): UserError {
  const near = nearestName(name, known);
  return new UserError(`Expected ${what} but received ${name}.`, {
    ...(name.startsWith('--') ? { flag: name } : {}),
    cure: near === undefined ? otherwise : `Did you mean ${near}? ${otherwise}`,
  });
}
