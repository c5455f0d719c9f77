/** Checks data, trains a LoRA adapter and prints the loss of every step. `node examples/train.ts MODEL DATA OUTPUT` */
import { checkData, resolveConfig, train } from 'minicpm-finetune';

const [model, data, output] = process.argv.slice(2);
if (model === undefined || data === undefined || output === undefined)
  throw new Error('usage: train.ts MODEL DATA OUTPUT');

// The keys are the flags of `minicpm-finetune train`; `recipe: 'run.yaml'` reads more of them from a file.
const { config } = resolveConfig({
  model_name_or_path: model,
  data_path: [data],
  output_dir: output,
  use_lora: true,
  lora_r: 16,
  tune_vision: false,
  learning_rate: 1e-4,
  per_device_train_batch_size: 2,
  num_train_epochs: 1,
  logging_steps: 1,
});

const report = await checkData(config);
for (const finding of report.errors) console.error(finding.message);
if (report.errors.length > 0) process.exit(2);

// Ctrl-C finishes the step, saves a checkpoint and returns; `resume_from_checkpoint: 'latest'` continues later.
const stop = new AbortController();
process.once('SIGINT', () => stop.abort());

const result = await train(config, {
  signal: stop.signal,
  onEvent: (event) => {
    if (event.event === 'step') console.log(`step ${event.step}: loss ${event.loss?.toFixed(4)}`);
  },
});
console.log(JSON.stringify(result));
