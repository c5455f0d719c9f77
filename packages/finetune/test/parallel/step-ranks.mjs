/**
 * One rank of models that train one after the other: `node step-ranks.mjs SETTINGS...`. Takes steps of four micro-batches
 * with 2, 0, 1 and 3 pictures, of one record or of several packed ones, and prints losses, norms and a hash of all parameters, as JSON lines
 * with the number of the settings.
 */
import { createHash } from 'node:crypto';
import { applyLora, createModel, quantizeLayers, trainableParameters } from '@minicpm-finetune/minicpm-v';
import { parseConfig } from '@minicpm-finetune/processor';
import {
  dryGroup,
  joinGroup,
  liveTensors,
  noGrad,
  ops,
  Store,
  scope,
  seedOf,
  setThreads,
  soloGroup,
  Transfer,
  tensorBytes,
  tuneAllocator,
} from '@minicpm-finetune/torch';
import { Random } from '../../dist/data/random.js';
import { collate } from '../../dist/engine/collate.js';
import { evaluateBatch } from '../../dist/engine/micro-batch.js';
import { withNoise } from '../../dist/engine/neftune.js';
import { Optimizer, withoutDecay } from '../../dist/engine/optimizer.js';
import { trainStep } from '../../dist/engine/step.js';
import { tuneFully } from '../../dist/engine/trainables.js';
import { FilePlace, HOST_MEMORY } from '../../dist/parallel/offload.js';
import { Sharding } from '../../dist/parallel/sharding.js';
import { unitName } from '../../dist/parallel/units.js';

const [rank, size] = [Number(process.env.RANK ?? 0), Number(process.env.WORLD_SIZE ?? 1)];
setThreads(1);
tuneAllocator();

const joined = size === 1 ? soloGroup() : join();
function join() {
  const address = { host: '127.0.0.1', port: Number(process.env.MASTER_PORT) };
  const timeout = 60_000;
  const store = new Store({ ...address, server: rank === 0, timeout, ...(rank === 0 ? { listening: 3 } : {}) });
  return joinGroup({ store, name: 'test', rank, size, timeout });
}

async function run(settings, number) {
  const say = (value) => console.log(JSON.stringify({ number, ...value }));
  const [before, started] = [liveTensors().tensors, performance.now()];
  const {
    stage = 0,
    dtype = 'float32',
    lora = null,
    masters = true,
    steps = 2,
    parts = 4,
    recompute = true,
    noise = null,
  } = settings;
  const {
    pictures = [
      [
        [4, 4],
        [2, 6],
      ],
      [],
      [[3, 5]],
      [
        [4, 4],
        [4, 4],
        [5, 3],
      ],
    ],
    tied = false,
    lossScale = 1,
    maxGradNorm = 1,
    fused = false,
    config = {},
    records = 1,
  } = settings;
  const group = settings.dry ? dryGroup(settings.dry - 1, settings.dry) : joined;
  const text = JSON.stringify({ ...settings.model, tie_word_embeddings: tied, ...config });
  const model = createModel(parseConfig(text, 'config.json'), { seed: 1, dtype });
  if (lora === null) tuneFully(model, { tuneVision: true, tuneLlm: true });
  else applyLora(model, lora, { seed: 1 });
  if (settings.quantized) quantizeLayers(model, settings.quantized);
  const trainable = trainableParameters(model);
  const transfer = new Transfer('cpu');
  const offloadOf = (where) =>
    where && { place: where === 'cpu' ? HOST_MEMORY : new FilePlace(where, '--offload'), transfer };
  const offload = offloadOf(settings.offload?.optimizer ?? null);
  const shared = { group, stage, trainable, smallUnit: 0, offload: offloadOf(settings.offload?.params ?? null) };
  const sharding = size === 1 && !settings.shared ? null : new Sharding(model, shared);
  const optimizer = new Optimizer(
    trainable,
    withoutDecay(model),
    {
      learningRate: 1e-2,
      visionLearningRate: null,
      resamplerLearningRate: null,
      embeddingLearningRate: null,
      loraPlusRatio: null,
      weightDecay: 0.1,
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-8,
      masterWeights: masters,
      stochasticRounding: !masters,
    },
    { shards: sharding?.shards, offload },
  );

  const batchOf = (step, part) => {
    const first = sample(model.config, 40 + 3 * part, pictures[part % pictures.length], 100 * step + part);
    const more = Array.from({ length: records - 1 }, (_, i) =>
      sample(model.config, 24 + 5 * i, [], 1000 * (i + 1) + 100 * step + part),
    );
    return collate([first, ...more]);
  };
  const each = Math.ceil(parts / size);
  let live = 0;
  /** Parts of the first step that had a gradient which is not finite, on this rank. */
  const overflowed = new Set();
  let passes = 0;
  const watch = {
    plan: (plan) => {
      passes++;
      return plan;
    },
    loss: () => {},
    gradients: (gradients) => {
      for (const gradient of gradients.values())
        if (!Number.isFinite(scope(() => ops.linalgVectorNorm(ops.to(gradient, 'float32')).item())))
          overflowed.add((passes - 1) * size + rank);
    },
  };
  for (let step = 0; step < steps; step++) {
    const mine = Array.from({ length: each }, (_, k) => k * size + rank).map((p) =>
      p < parts ? batchOf(step, p) : null,
    );
    const options = {
      maxGradNorm,
      fused,
      recompute,
      perMicroBatch: false,
      seed: seedOf(7, step),
      sharding,
      lossScale,
      ...(step === 0 && lossScale !== 1 ? { watch } : {}),
      ...(noise === null ? {} : { wrap: (plan, inputs) => withNoise(plan, inputs, model, noise) }),
    };
    say({ step, ...trainStep(model, mine, optimizer, 1, options) });
    if (step === steps - 2) live = liveTensors().tensors;
  }
  if (liveTensors().tensors !== live) say({ wrong: 'live tensors', before: live, after: liveTensors().tensors });
  const { peak } = tensorBytes();
  const evaluated = Array.from({ length: each }, (_, k) => k * size + rank).map((p) =>
    evaluateBatch(model, p < parts ? batchOf(99, p) : null, null, sharding),
  );
  const sums = group.exchange(
    evaluated.flatMap(({ sum, count }) => [sum, count]),
    'evaluation',
  );
  const inOrder = Array.from({ length: each }, (_, k) => sums.map((own) => [own[2 * k], own[2 * k + 1]]))
    .flat()
    .slice(0, parts);
  say({ evaluated: inOrder });

  const counts = [...model.namedParameters()].map(([name, { shape }]) => [
    unitName(name),
    shape.reduce((a, b) => a * b, 1),
  ]);
  const units = new Map();
  for (const [name, count] of counts) units.set(name, (units.get(name) ?? 0) + count);
  const hash = createHash('sha256');
  const all = async () => {
    for (const [name, parameter] of [...model.namedParameters()].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const numbers = scope(() => noGrad(() => ops.contiguous(ops.detach(parameter.data)).toTypedArray()));
      hash.update(name).update(numbers);
    }
  };
  await (sharding ? sharding.withAllWeights(all) : all());
  say({
    hash: hash.digest('hex'),
    overflowed: [...overflowed],
    peak,
    seconds: (performance.now() - started) / 1000,
    numbers: counts.reduce((sum, [, count]) => sum + count, 0),
    unit: Math.max(...units.values()),
  });
  for (const held of [optimizer, sharding, model]) held?.dispose();
  const left = liveTensors().tensors - before;
  if (left > 0) say({ wrong: 'live tensors after all', left });
}

function sample({ pictureTokens, vision, llm }, length, sizes, seed) {
  const Q = pictureTokens.queryNum;
  const random = new Random(seed, length);
  const inputIds = Int32Array.from({ length }, () => random.below(Math.min(llm.vocabSize, 200)));
  const labels = inputIds.map((_, i) => (i >= length >> 1 && i < length - 1 ? inputIds[i + 1] : -100));
  const imageBounds = sizes.map((_, i) => [1 + i * (Q + 1), 1 + i * (Q + 1) + Q]);
  const patch = vision.patchSize;
  const own = sizes.map(([rows, cols]) => ({
    pixels: Uint8Array.from({ length: 3 * patch * patch * rows * cols }, () => random.below(256)),
    shape: [3, patch, patch * rows * cols],
    rows,
    cols,
  }));
  return { inputIds, labels, imageBounds, pictures: own };
}
for (const [number, settings] of process.argv.slice(2).entries()) await run(JSON.parse(settings), number);
joined.barrier('end');
