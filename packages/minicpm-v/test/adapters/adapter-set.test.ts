import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readConfig } from '@minicpm-finetune/processor';
import { fromTypedArray, liveTensors, manualSeed, noGrad, ops, scope, setThreads } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AdapterSet } from '../../src/adapters/adapter-set.js';
import { describeBase, loadAdapter, saveAdapter } from '../../src/adapters/folder.js';
import { applyLora, removeLora, trainableParameters } from '../../src/adapters/lora.js';
import type { LoraOptions } from '../../src/adapters/lora-config.js';
import { quantizeLayers } from '../../src/adapters/quantize.js';
import { loadWeights } from '../../src/checkpoint/weights.js';
import { MiniCPMV } from '../../src/model/minicpm-v.js';
import { tinyCheckpoint } from '../support/tiny.js';

beforeAll(() => manualSeed(1)); // otherwise other numbers each time, of which some would be rare

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'adapter-set-'));
afterAll(() => rmSync(work, { recursive: true }));

let base: string;
const folders: string[] = [];
const Q = 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|v_proj)';
const KINDS: readonly LoraOptions[] = [
  { r: 4, alpha: 8, targetModules: Q },
  {
    r: 2,
    alpha: 8,
    targetModules: Q,
    modulesToSave: ['resampler', 'embed_tokens'],
    bias: 'lora_only',
    useRslora: true,
  },
  { r: 4, alpha: 4, targetModules: ['down_proj', 'vpm.encoder.layers.0.self_attn.q_proj'], useDora: true },
];

function open(): MiniCPMV {
  const model = new MiniCPMV(readConfig(base));
  loadWeights(model, base);
  return model;
}

beforeAll(() => {
  base = tinyCheckpoint(work, 'minicpm-v-2_6');
  KINDS.forEach((kind, i) => {
    const model = open();
    const applied = applyLora(model, kind, { seed: i });
    noGrad(() =>
      scope(() => {
        for (const [, { data }] of trainableParameters(model))
          ops.add_(data, ops.mulScalar(ops.randn(data.shape), 0.2));
      }),
    );
    saveAdapter(join(work, `${i}`), model, applied, describeBase(base));
    folders.push(join(work, `${i}`));
    model.dispose();
  });
});

/** Logits of a picture and a few tokens: all parts of the model have a say in them. */
function logits(model: MiniCPMV): number[] {
  const ids = BigInt64Array.from({ length: 12 }, (_, i) => BigInt(i * 7 + 3));
  const pixels = Float32Array.from({ length: 3 * 14 * 14 * 6 }, (_, i) => Math.sin(i * i));
  return noGrad(() =>
    scope(() => {
      const embeds = model.inputsEmbeds({
        inputIds: fromTypedArray(ids, [1, 12]),
        positionIds: ops.unsqueeze(ops.arange(0, 12, 1, { dtype: 'int64' }), 0),
        pictures: [[{ pixels: fromTypedArray(pixels, [3, 14, 84]), rows: 2, cols: 3 }]],
        imageBounds: [[[2, 6]]],
      });
      const rope = model.llm.model.rope(ops.unsqueeze(ops.arange(0, 12, 1, { dtype: 'int64' }), 0));
      const hidden = model.llm.model.layers.reduce((x, layer) => layer.forward(x, rope), embeds);
      return model.logits(model.llm.model.finish(hidden)).toNumbers();
    }),
  );
}

function alone(folder: string | null): number[] {
  const model = open();
  if (folder !== null) loadAdapter(folder, model, { trainable: false });
  const result = logits(model);
  removeLora(model);
  model.dispose();
  return result;
}

describe('an adapter set', () => {
  it('computes what each adapter computes alone, in any order, and the base when none is active', () => {
    const wanted = [null, ...folders].map(alone);
    const before = liveTensors();
    const model = open();
    const set = new AdapterSet(model);
    const held = [null, ...folders.map((folder) => set.load(folder))];
    for (const i of [0, 1, 2, 3, 1, 3, 2, 0, 2, 2, 0]) {
      set.activate(held[i]!);
      expect(logits(model), `${i}`).toEqual(wanted[i]);
    }
    expect(held.slice(1).map((one) => one!.changesVision)).toEqual([false, true, true]);
    set.free(held[2]!);
    set.activate(held[3]!);
    expect(logits(model)).toEqual(wanted[3]);
    set.free(held[3]!); // while it is active
    expect(set.active).toBe(null);
    expect(logits(model)).toEqual(wanted[0]);
    set.dispose();
    model.dispose();
    expect(liveTensors()).toEqual(before);
  });

  it('holds the base once: an adapter costs its own tensors, and changing between them nothing', () => {
    const model = open();
    const set = new AdapterSet(model);
    const before = liveTensors();
    const held = folders.map((folder) => set.load(folder));
    const own = held.reduce((sum, { nbytes }) => sum + nbytes, 0);
    expect(liveTensors().bytes - before.bytes).toBeLessThanOrEqual(own);
    for (const one of held) {
      set.activate(one);
      logits(model); // DoRA keeps the norms of its weights at its first use
    }
    const loaded = liveTensors();
    for (let round = 0; round < 3; round++) for (const one of [...held, null]) set.activate(one);
    expect(liveTensors()).toEqual(loaded);
    set.dispose();
    expect(liveTensors()).toEqual(before);
    model.dispose();
  });

  it('takes a base in int8, whose weights it makes one at a time', () => {
    const before = liveTensors();
    const wanted = folders.map((folder) => {
      const model = open();
      quantizeLayers(model, 'int8');
      loadAdapter(folder, model, { trainable: false });
      const result = logits(model);
      removeLora(model);
      model.dispose();
      return result;
    });
    const model = open();
    quantizeLayers(model, 'int8');
    const set = new AdapterSet(model);
    folders.forEach((folder, i) => {
      set.activate(set.load(folder));
      expect(logits(model)).toEqual(wanted[i]);
    });
    set.dispose();
    model.dispose();
    expect(liveTensors()).toEqual(before);
  });

  it('is as before when an adapter cannot be read', () => {
    const model = open();
    const set = new AdapterSet(model);
    const held = set.load(folders[0]!);
    const before = liveTensors();
    const broken = join(work, 'broken');
    cpSync(folders[1]!, broken, { recursive: true });
    writeFileSync(join(broken, 'adapter_model.safetensors'), 'x'.repeat(100));
    expect(() => set.load(broken)).toThrow('adapter');
    cpSync(join(folders[0]!, 'adapter_model.safetensors'), join(broken, 'adapter_model.safetensors'));
    expect(() => set.load(broken)).toThrow('missing');
    expect(() => set.load(join(work, 'nowhere'))).toThrow('adapter folder');
    expect(() => set.load(folders[1]!, () => 'sha256:other')).toThrow('trained on');
    expect(liveTensors()).toEqual(before);
    expect(logits(model)).toEqual(alone(null));
    set.activate(held);
    expect(logits(model)).toEqual(alone(folders[0]!));
    set.dispose();
    model.dispose();
  });
});
