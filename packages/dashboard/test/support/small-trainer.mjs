/**
 * A process that writes a run folder and obeys as the trainer does (STOP file, SIGUSR1, SIGTERM once and twice), without a model: for tests of
 * what the page does with processes. Flags: `--output_dir`, `--max_steps`, `--resume_from_checkpoint`, and `--run_name=fail` to fail before
 * the first event.
 */
import { existsSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { thisProcess } from '@minicpm-finetune/run';
import { RecordedRun } from './recorded-runs.mjs';

const flags = Object.fromEntries(
  process.argv.slice(3).map((word) => /^--(\w+)=(.*)$/s.exec(word)?.slice(1) ?? ['command', word]),
);
const { output_dir: folder, max_steps: most = '100000', resume_from_checkpoint: resumed } = flags;
console.log(`\u001b[32mtraining\u001b[0m ${folder}`);
if (flags.run_name === 'fail') {
  console.error('error: Expected a checkpoint for --model_name_or_path but received "nothing".\n cure: Name another.');
  process.exit(2);
}

let asked = null;
let isSaving = false;
process.on('SIGTERM', () => {
  if (asked !== null) process.exit(143);
  asked = 'sigterm';
});
process.on('SIGUSR1', () => (isSaving = true));

const { pid, start } = thisProcess();
const from = resumed === undefined ? 0 : Number(basename(resumed).slice('checkpoint-'.length));
const run = new RecordedRun(folder).now().start({
  changes: { model_name_or_path: 'none', max_steps: Number(most) },
  totalSteps: Number(most),
  resumedAtStep: from,
  process: { pid, start },
});
while (run.step < Number(most)) {
  run.steps(run.step + 5);
  await new Promise((resolve) => setTimeout(resolve, flags.seed === '1' && asked !== null ? 60_000 : 20));
  if (existsSync(join(folder, 'STOP'))) {
    rmSync(join(folder, 'STOP'));
    asked = 'stop_file';
  }
  if (isSaving) run.checkpoint('signal');
  isSaving = false;
  if (asked !== null && flags.seed !== '1') break;
}
if (asked === null) run.end('finished', { output: '.' });
else run.checkpoint('stop').stop(asked).end('stopped');
