/**
 * Times LoRA steps of a model of 8.1 B parameters. A model of MiniCPM-V 2.6's size with random weights, made on the
 * device, with everything recomputed, on rows of `--tokens` tokens. Prints one JSON line: seconds per step, the
 * language blocks' share of plain products, peak memory. A program of its own, so that its memory is.
 */
import { parseArgs } from 'node:util';
import { applyLora, MiniCPMV, setLoraTraining, trainableParameters } from '@minicpm-finetune/minicpm-v';
import { fixedTokens, parseConfig } from '@minicpm-finetune/processor';
import { OFFICIAL_LORA_TARGETS } from '@minicpm-finetune/run';
import { deviceMemory, keep, noGrad, ops, peakResidentBytes, scope, synchronize } from '@minicpm-finetune/torch';
import {
  type Batch,
  type DeviceName,
  Optimizer,
  pack,
  StepMeter,
  startEngine,
  trainStep,
  withoutDecay,
} from 'minicpm-finetune/internal';
import { TINY_CONFIG } from '../quickstart/tiny-config.js';

/** Sizes of the published MiniCPM-V 2.6 over those of the tiny one. */
const SIZES = {
  ...{ hidden_size: 3584, intermediate_size: 18944, num_hidden_layers: 28, num_attention_heads: 28 },
  ...{ num_key_value_heads: 4, vocab_size: 151666, query_num: 64, max_position_embeddings: 32768 },
  vision_config: {
    ...TINY_CONFIG.vision_config,
    ...{ hidden_size: 1152, intermediate_size: 4304, num_hidden_layers: 27, num_attention_heads: 16 },
  },
};
const MEASURED = 3;

/** Weights are normal; they only have to be of the right size. */
function randomModel(config: MiniCPMV['config'], device: DeviceName): MiniCPMV {
  const model = new MiniCPMV(config);
  noGrad(() => {
    for (const [name, parameter] of model.namedParameters())
      parameter.data = scope(() => {
        const data = keep(ops.empty(parameter.shape, { dtype: 'bfloat16', device }));
        return /norm.*weight|ln_.*weight/.test(name) ? ops.fill_(data, 1) : ops.normal_(data, 0, 0.02);
      });
  });
  return model;
}

/** Text with two pictures of 32 x 32 patches, the second half supervised. */
function batchOf({ config }: MiniCPMV, tokens: number, device: DeviceName): Batch {
  const { llm, vision } = config;
  const Q = fixedTokens(config.pictureTokens);
  const [side, count] = [32, tokens > 2 * (Q + 2) ? 2 : 0];
  const inputIds = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % llm.vocabSize);
  const labels = inputIds.map((_, i) => (i >= tokens >> 1 && i < tokens - 1 ? inputIds[i + 1]! : -100));
  const imageBounds = Array.from({ length: count }, (_, i): [number, number] => [1 + i * (Q + 1), 1 + i * (Q + 1) + Q]);
  const shape = [3, vision.patchSize, vision.patchSize * side * side];
  const pictures = imageBounds.map(() =>
    scope(() => ({ pixels: keep(ops.randn(shape, { dtype: 'bfloat16', device })), rows: side, cols: side })),
  );
  return pack([{ inputIds, labels, imageBounds }], pictures, device);
}

async function main(words: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...words],
    options: {
      device: { type: 'string', default: 'cpu' },
      tokens: { type: 'string', default: '2048' },
      steps: { type: 'string', default: '5' },
      tiny: { type: 'boolean', default: false },
    },
  });
  const device = startEngine({ device: values.device as DeviceName, threads: null });
  const raw = values.tiny ? TINY_CONFIG : { ...TINY_CONFIG, ...SIZES };
  const model = randomModel(parseConfig(JSON.stringify(raw), 'check:device'), device);
  applyLora(model, { r: 64, alpha: 64, targetModules: OFFICIAL_LORA_TARGETS }, { seed: 0 });
  setLoraTraining(model, true);
  const optimizer = new Optimizer(trainableParameters(model), withoutDecay(model), {
    ...{ learningRate: 1e-4, visionLearningRate: null, resamplerLearningRate: null, embeddingLearningRate: null },
    ...{ loraPlusRatio: null, weightDecay: 0, beta1: 0.9, beta2: 0.95, eps: 1e-8, masterWeights: false },
  });
  const [tokens, steps] = [Number(values.tokens), Number(values.steps)];
  const options = { maxGradNorm: 1, recompute: true, perMicroBatch: false };
  const seconds: number[] = [];
  const losses: number[] = [];
  let peak = 0;
  for (let step = 0; step < steps; step++) {
    const batch = batchOf(model, tokens, device);
    synchronize(device);
    const start = performance.now();
    losses.push(trainStep(model, [batch], optimizer, 1, options).loss);
    synchronize(device);
    seconds.push((performance.now() - start) / 1000);
    peak = device === 'cpu' ? peakResidentBytes() : deviceMemory(device).peak;
    await new Promise(setImmediate);
  }
  const meter = new StepMeter(model, optimizer, 'bfloat16', device);
  for (let step = 0; step < MEASURED; step++) {
    const batch = batchOf(model, tokens, device);
    meter.step([batch], 0, () => trainStep(model, [batch], optimizer, 1, { ...options, profile: meter }));
  }
  const { languageFlops, matmulFlops, seconds: parts } = meter.measurement();
  const median = [...seconds.slice(1)].sort((a, b) => a - b)[(seconds.length - 1) >> 1];
  console.log(
    JSON.stringify({
      parameters: [...model.namedParameters()].reduce((sum, [, { data }]) => sum + data.numel, 0),
      ...{ tokens, losses, step_s: seconds, median_step_s: median, tokens_per_s: tokens / median! },
      share_of_matmul: languageFlops / matmulFlops,
      ...{ language_tflops: languageFlops / 1e12, matmul_tflops: matmulFlops / 1e12, peak_mib: peak / 2 ** 20 },
      parts_s: Object.fromEntries([...parts].map(([name, value]) => [name, Number(value.toFixed(4))])),
    }),
  );
}

await main(process.argv.slice(2));
