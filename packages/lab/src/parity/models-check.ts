/** All checks of one reference folder. In one setting of device and precision. */
import { resolve } from 'node:path';
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import type { Group } from '@minicpm-finetune/torch';
import { checkCommon, checkExtra } from './models-extra.js';
import { ReferenceFolder } from './models-folder.js';
import { checkDummy, checkForward, checkGeneration, checkSharded, loadModel } from './models-forward.js';
import { checkLora, checkLoraTrajectory } from './models-lora.js';
import { Report, type Setting } from './models-report.js';
import { checkFullGradients, checkTrajectory, trainAll } from './models-training.js';

/** Linear attention divides by the size of a head's output, which is small for some tokens: other ways to compute differ by ten times as much. */
const LINEAR_NOISE = 10;

/** Carries out all checks of one folder and prints a line for each; the report counts them and what failed. */
export async function checkFolder(path: string, print: (line: string) => void, setting?: Setting): Promise<Report> {
  const folder = new ReferenceFolder(resolve(path), setting?.device);
  const report = new Report(folder.name, print, setting);
  let model: MiniCPMV | undefined;
  report.attempt('weights', 0, () => {
    model = loadModel(folder.path, report.setting);
    if (model.config.llm.linearAttention) report.noise = LINEAR_NOISE;
  });
  if (model !== undefined) await checkModel(report, folder, model);
  await report.attemptLater('lora', 0, () => checkLora(report, folder));
  return report;
}

/** The recorded trainings of a folder, over the ranks of a group. Collective; rank 0 prints. */
export async function checkTrajectories(
  path: string,
  print: (line: string) => void,
  setting: Setting,
  group: Group,
): Promise<Report> {
  const folder = new ReferenceFolder(resolve(path), setting.device);
  const report = new Report(folder.name, group.rank === 0 ? print : () => {}, setting);
  const model = loadModel(folder.path, setting);
  trainAll(model);
  await report.attemptLater('train/full', 0, () => checkTrajectory(report, folder, 'full', model, group));
  model.dispose();
  await report.attemptLater('train/lora', 0, () => checkLoraTrajectory(report, folder, group));
  return report;
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
  await report.attemptLater('train/full', 0, () => checkTrajectory(report, folder, 'full', model));
  model.dispose();
}
