/** How a model is cut into units, shares and segments, and in which order ranks pass them. */
import { strict as assert } from 'node:assert';
import { join } from 'node:path';
import { applyLora, createModel, type MiniCPMV, type Plan } from '@minicpm-finetune/minicpm-v';
import { readConfig } from '@minicpm-finetune/processor';
import { type Group, scope, soloGroup } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { collate } from '../../src/engine/collate.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { inUnitOrder, Passage, type Visitor } from '../../src/parallel/passage.js';
import { segmentsOf, type Unit, unitName, unitsOf } from '../../src/parallel/units.js';
import { noiseSample } from '../support/model-in-memory.js';

const config = readConfig(join(import.meta.dirname, '..', 'fixtures', 'data', 'model'));
const TABLE = 'llm.model.embed_tokens.weight';

function fullModel(): MiniCPMV {
  const model = createModel(config, { seed: 1 });
  tuneFully(model, { tuneVision: true, tuneLlm: true });
  return model;
}

function cut(model: MiniCPMV, size: number): Unit[] {
  const trainable = new Set([...model.namedParameters()].flatMap(([name, p]) => (p.requiresGrad ? [name] : [])));
  return unitsOf(model, { size, trainable, tables: new Set([TABLE]) });
}

describe('units', () => {
  it('are what blocks of a plan read, in the order of a forward pass', () => {
    const model = fullModel();
    expect(cut(model, 2).map(({ name }) => name)).toEqual([
      'vpm.embeddings',
      'vpm.encoder.layers.0',
      'vpm.encoder.layers.1',
      'vpm.norm',
      'resampler',
      'llm.model.embed_tokens',
      'llm.model.layers.0',
      'llm.model.layers.1',
      'llm.model.norm',
      'llm.lm_head',
    ]);
    model.dispose();
  });

  it.each([
    ['llm.model.layers.12.self_attn.q_proj.lora_A.default.weight', 'llm.model.layers.12'],
    ['vpm.blocks.3.attn.qkv.weight', 'vpm.blocks.3'],
    ['vpm.pos_embed', 'vpm.embeddings'],
    ['vpm.patch_embed.proj.bias', 'vpm.embeddings'],
    ['vpm.norm.weight', 'vpm.norm'],
    ['resampler.attn.in_proj_weight', 'resampler'],
  ])('%s is of %s', (name, unit) => {
    expect(unitName(name)).toBe(unit);
  });

  it.each([1, 2, 3, 7])('give each of %i ranks an equal share of every buffer, and each number to one rank', (size) => {
    const model = fullModel();
    for (const part of cut(model, size).flatMap(({ parts }) => parts)) {
      if (part.row === null) expect(part.share % 64).toBe(0);
      else expect(part.share % part.row).toBe(0);
      for (const { start } of part.fields) expect(start % 64).toBe(0);
      for (const { name, length } of part.fields) {
        const pieces = Array.from({ length: size }, (_, rank) => segmentsOf(part, rank)).flat();
        const own = pieces.map(({ segment }) => segment).filter((segment) => segment.name === name);
        let end = 0;
        for (const segment of own) {
          expect(segment.start).toBe(end);
          end += segment.length;
        }
        expect(end).toBe(length);
      }
    }
    model.dispose();
  });

  it('keep what trains and what is frozen apart', () => {
    const model = createModel(config, { seed: 1 });
    applyLora(model, { r: 4, alpha: 8, targetModules: ['q_proj'] }, { seed: 1 });
    const layer = cut(model, 2).find(({ name }) => name === 'llm.model.layers.0')!;
    const kinds = layer.parts.map(({ trains, fields }) => [trains, fields.some(({ name }) => name.includes('lora_'))]);
    expect(kinds.sort()).toEqual([
      [false, false],
      [true, true],
    ]);
    model.dispose();
  });
});

/** Lets ranks of one process agree: each passes its flags when it is made, the last one sees all. */
class Notes implements Visitor {
  readonly all: string[] = [];
  begin(unit: Unit, next: Unit | undefined): void {
    this.all.push(`${unit.name}${next ? ` then ${next.name}` : ''}`);
  }
  end(): void {}
  gradients(unit: Unit): void {
    this.all.push(`gradients of ${unit.name}`);
  }
}

/** A group in which another rank has said `theirs`. */
function withAnother(theirs: readonly number[]): Group {
  const group = soloGroup();
  group.exchange = (own) => [Float64Array.from(own), Float64Array.from(theirs)];
  return group;
}

describe('a passage', () => {
  it('visits what any rank needs: a rank of text alone passes the tower, one without a record everything', () => {
    const model = fullModel();
    const units = cut(model, 2);
    const head = [...model.headParameters().keys()];
    const flagsOf = (plan: Plan): number[] => {
      let flags: readonly number[] = [];
      const group = soloGroup();
      group.exchange = (own) => {
        flags = own;
        return [Float64Array.from(own)];
      };
      new Passage({ group, units, head, visitor: new Notes(), label: '' }, { plan, supervised: true, trains: true });
      return [...flags];
    };
    const planOf = (sizes: readonly (readonly [number, number])[]): Plan => {
      const batch = collate([noiseSample(model, 60, sizes, 1)]);
      return inUnitOrder(model.plan(batch.inputs, { train: true }), units);
    };
    scope(() => {
      const pictures = flagsOf(planOf([[4, 4]]));
      const text = planOf([]);
      const walk = (plan: Plan, supervised: boolean): string[] => {
        const visitor = new Notes();
        const options = { group: withAnother(pictures), units, head, visitor, label: 'x' };
        const passage = new Passage(options, { plan, supervised, trains: true });
        for (const node of plan) passage.enter(node);
        passage.head();
        passage.headDone();
        for (const node of [...plan].reverse()) passage.enter(node);
        passage.end();
        return visitor.all;
      };
      const [some, none] = [walk(text, true), walk([], false)];
      expect(some).toEqual(none);
      const body = units.slice(0, -1).map(({ name }) => name);
      expect(none.filter((line) => line.startsWith('gradients')).map((line) => line.slice(13))).toEqual([
        'llm.lm_head',
        ...[...body].reverse(),
      ]);
      expect(none.slice(0, body.length)).toEqual(
        body.map((name, i) => (body[i + 1] ? `${name} then ${body[i + 1]}` : name)),
      );
    });
    model.dispose();
  });

  it('leaves the tower out where no rank has a picture', () => {
    const model = fullModel();
    const units = cut(model, 2);
    const visitor = new Notes();
    scope(() => {
      const batch = collate([noiseSample(model, 20, [], 1)]);
      const plan = inUnitOrder(model.plan(batch.inputs, { train: true }), units);
      const options = { group: soloGroup(), units, head: [...model.headParameters().keys()], visitor, label: 'x' };
      const passage = new Passage(options, { plan, supervised: true, trains: true });
      for (const node of plan) passage.enter(node);
      passage.head();
      passage.headDone();
      for (const node of [...plan].reverse()) passage.enter(node);
      passage.end();
    });
    expect(visitor.all.some((line) => /vpm|resampler/.test(line))).toBe(false);
    model.dispose();
  });
});

it('orders a plan by units without changing what depends on what', () => {
  const model = fullModel();
  const units = cut(model, 1);
  scope(() => {
    const sizes = [
      [4, 4],
      [2, 6],
    ] as const;
    const plan = model.plan(collate([noiseSample(model, 60, sizes, 1)]).inputs, { train: true });
    const ordered = inUnitOrder(plan, units);
    expect(ordered.map(({ name }) => name).sort()).toEqual(plan.map(({ name }) => name).sort());
    const levels = ordered.flatMap(({ parameters }) => {
      const [first] = parameters.keys();
      return first === undefined ? [] : [units.find(({ name }) => name === unitName(first))!.index];
    });
    expect(levels).toEqual([...levels].sort((a, b) => a - b));
    ordered.forEach((node, i) => {
      for (const j of node.inputs) assert.ok(j < i);
    });
  });
  model.dispose();
});
