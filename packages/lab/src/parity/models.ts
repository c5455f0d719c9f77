/**
 * `npm run parity -- DIR…`: compares a model with the reference implementation's numbers in folders of tiny checkpoints, inputs and
 * expected values. Every check that a folder allows is carried out and prints one line of JSON. Exit status 1 when any fails, 2 when the
 * command line is wrong.
 */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import { setThreads } from '@minicpm-finetune/torch';
import { checkCommon, checkExtra } from './models-extra.js';
import { ReferenceFolder } from './models-folder.js';
import { checkDummy, checkForward, checkGeneration, checkSharded, loadModel } from './models-forward.js';
import { checkLora } from './models-lora.js';
import { Report } from './models-report.js';
import { checkFullGradients, checkTrajectory, trainAll } from './models-training.js';

/** All checks of one folder; returns how many failed. */
export async function checkFolder(path: string, print: (line: string) => void): Promise<number> {
  const folder = new ReferenceFolder(resolve(path));
  const report = new Report(folder.name, print);
  let model: MiniCPMV | undefined;
  report.attempt('weights', 0, () => {
    model = loadModel(folder.path);
  });
  if (model !== undefined) await checkModel(report, folder, model);
  report.attempt('lora', 0, () => checkLora(report, folder));
  return report.failures;
}

async function checkModel(report: Report, folder: ReferenceFolder, model: MiniCPMV): Promise<void> {
  checkForward(report, folder, model);
  checkDummy(report, folder, model);
  checkSharded(report, folder, model);
  await checkGeneration(report, folder, model);
  checkExtra(report, folder, model);
  checkCommon(report, folder);
  trainAll(model);
  checkFullGradients(report, folder, model);
  report.attempt('train/full', 0, () => checkTrajectory(report, folder, 'full', model));
  model.dispose();
}

async function main(paths: readonly string[]): Promise<number> {
  const wrong = paths.find((path) => path.startsWith('-') || !existsSync(join(path, 'config.json')));
  if (paths.length === 0 || wrong !== undefined) {
    const received = wrong === undefined ? 'nothing' : JSON.stringify(wrong);
    console.error(`error: Expected folders with config.json, weights and cases for parity but received ${received}.`);
    console.error(' cure: npm run parity -- DIR…');
    return 2;
  }
  setThreads(1); // the models are tiny: a second thread costs more than it gives
  let failures = 0;
  for (const path of paths) failures += await checkFolder(path, (line) => console.log(line));
  return failures > 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
