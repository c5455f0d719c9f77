/**
 * Saves a checkpoint before an error ends a run. What happens between two steps costs none of them: a record that
 * turns out bad, data or pictures that were changed, a data thread that died, a failed evaluation. Not here: an error in
 * the middle of a step, after which the state is not whole.
 */
import { UserError } from '@minicpm-finetune/run';
import { attempt } from '../parallel/agree.js';
import { runEvaluation } from './evaluate.js';
import type { Run } from './run.js';
import { save } from './saving.js';

/** Evaluates. If that fails, the checkpoint says that the evaluation is still to be made. */
export async function evaluate(run: Run): Promise<void> {
  try {
    await runEvaluation(run);
    run.state.evaluationDue = false;
  } catch (error) {
    run.state.evaluationDue = true;
    throw saved(run, error);
  }
}

/**
 * Saves a checkpoint, and returns the error; one of the user's says where it is and how to resume, of any other a notice does. All ranks have
 * to have the error: where one has it alone, or a rank is gone, nothing is saved.
 */
export function saved(run: Run, cause: unknown): unknown {
  const { config, state, log } = run;
  if (state.step === 0) return cause;
  state.failedRecord = cause instanceof UserError ? failedRecord(run, cause) : null;
  const made = attempt(() => save(run, 'error'));
  if ('error' in made || made.value === null) return cause;
  const path = made.value;
  const record = cause instanceof UserError && cause.record !== undefined;
  const where = `${state.step === 1 ? 'The step before it is' : `The ${state.step} steps before it are`} saved in ${path}.`;
  const repaired = record ? ', with the record repaired in its place or with --on_bad_record skip' : '';
  const how = config.save.save_only_model
    ? 'It has no optimizer (--save_only_model), so it cannot be resumed.'
    : `Resume with the same command and --resume_from_checkpoint latest${repaired}.`;
  if (!(cause instanceof UserError)) {
    log.reporter.notice(`The run fails. ${where} ${how}`);
    return cause;
  }
  const cure = [cause.cure, where, how].filter((part) => part !== undefined).join(' ');
  return new UserError(cause.message, { ...cause.details(), cure, cause });
}

/** The record that is bad now: it may come back repaired, with another content than steps have used. */
function failedRecord({ data: { train } }: Run, { file, record }: UserError): number | null {
  return typeof record === 'number' && file !== undefined ? (train.indexOf(file, record) ?? null) : null;
}
