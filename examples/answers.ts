/** Answers a data file with an adapter, then merges it. `node examples/answers.ts MODEL ADAPTER DATA OUTPUT` */
import { generate, merge } from 'minicpm-finetune';

const [model, adapter, data, output] = process.argv.slice(2);
if (model === undefined || adapter === undefined || data === undefined || output === undefined)
  throw new Error('usage: answers.ts MODEL ADAPTER DATA OUTPUT');

// One JSON line for each record; if the program is interrupted, the next start continues the file.
const summary = await generate({
  model,
  adapters: [adapter],
  dataPaths: [data],
  output: `${output}.jsonl`,
  batchSize: 4,
  maxNewTokens: 16,
});
console.log(JSON.stringify(summary));

// A checkpoint that needs no adapter, opened again and compared.
const report = await merge({ model, adapters: [adapter], output });
console.log(JSON.stringify(report));
