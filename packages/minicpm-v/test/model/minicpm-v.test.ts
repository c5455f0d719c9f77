import { partOf, VERSIONS, type VersionName } from '@minicpm-finetune/processor';
import { grad, liveTensors, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BACKWARD, expectNear, FORWARD, roundings } from '../../../torch/test/precision.js';
import type { MiniCPMV } from '../../src/model/minicpm-v.js';
import type { Picture } from '../../src/model/patches.js';
import { runPlan } from '../../src/model/plan.js';
import {
  distance,
  hashedInputs,
  hashedModel,
  type Probe,
  probe,
  type Reference,
  readReference,
  relativeDifference,
} from '../support/reference.js';

const VERSION_NAMES = Object.keys(VERSIONS) as VersionName[];

/** Linear attention divides by the size of its heads' outputs, which is small for some tokens: the reference's own noise there is 1e-4. */
const NOISE = { full: 1, linear: 8 };

function expectClose(actual: readonly Tensor[], expected: readonly Probe[]): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((x, i) => {
    expect(distance(probe(x), expected[i]!), `number ${i}`).toBeLessThan(FORWARD);
  });
}

/** The positions of each sequence that are no padding. */
const valid = (x: Tensor, lengths: readonly number[]): Tensor[] =>
  lengths.map((length, b) => ops.narrow(ops.select(x, 0, b), 0, 0, length));

const shapesOf = (pictures: readonly Picture[]): number =>
  new Set(pictures.map(({ rows, cols }) => `${rows}x${cols}`)).size;

describe.each(VERSION_NAMES)('%s', (version) => {
  let reference: Reference;
  let model: MiniCPMV;

  beforeAll(() => {
    reference = readReference(version);
    model = hashedModel(reference);
  });
  afterAll(() => model.dispose());

  it('sees pictures as the reference does', () => {
    noGrad(() =>
      scope(() => {
        const pictures = hashedInputs(model).inputs.pictures.flat();
        expectClose(model.visionFeatures(pictures), reference.vision);
        expectClose(model.pictureTokens(pictures), reference.tokens);
        if (reference.dummy_tokens) expectClose([model.dummyTokens()], [reference.dummy_tokens]);
        if (reference.group_tokens) {
          const frames = pictures.slice(0, 3).map((picture, i) => ({ ...picture, temporalId: [0, 3, -1][i]! }));
          expectClose(model.pictureTokens(frames, [3]), [reference.group_tokens]);
        }
      }),
    );
  });

  it('has its embeddings, logits and loss', () => {
    noGrad(() =>
      scope(() => {
        const { inputs, labels, samples } = hashedInputs(model);
        const lengths = samples.map(({ ids }) => ids.length);
        expectClose(valid(model.inputsEmbeds(inputs), lengths), reference.inputs_embeds);
        const logits = model.logits(runPlan(model.plan(inputs, { train: false })));
        expectClose(valid(logits, lengths), reference.logits);
        const loss = ops.crossEntropyLoss(ops.reshape(logits, [-1, logits.size(-1)]), ops.reshape(labels, [-1]));
        expectNear(loss.item(), reference.loss, FORWARD);
      }),
    );
  });

  it.each([false, true])('has its gradients, pictures of all shapes in one row: %s', (packPictures) => {
    const trained = [...model.namedParameters()].filter(([name]) => !model.fixedParameters.has(name));
    expect(trained.map(([name]) => name).sort()).toEqual(Object.keys(reference.gradients).sort());
    for (const [, parameter] of trained) parameter.data.requiresGrad = true;
    scope(() => {
      const { inputs, labels } = hashedInputs(model);
      const plan = model.plan(inputs, { train: true, packPictures });
      const towers = plan.filter(({ name }) => name === model.parts.connector).length;
      expect(towers).toBe(packPictures && model.version.positions === 'grid' ? 1 : shapesOf(inputs.pictures.flat()));
      const logits = model.logits(runPlan(plan));
      const loss = ops.crossEntropyLoss(ops.reshape(logits, [-1, logits.size(-1)]), ops.reshape(labels, [-1]));
      const gradients = grad(
        [loss],
        trained.map(([, { data }]) => data),
      );
      trained.forEach(([name], i) => {
        expect(gradients[i], name).not.toBeNull();
        expect(distance(probe(gradients[i]!), reference.gradients[name]!, 1e-2), name).toBeLessThan(
          NOISE[model.config.llm.linearAttention ? 'linear' : 'full'] * BACKWARD,
        );
      });
    });
    for (const [, parameter] of trained) parameter.data.requiresGrad = false;
  });

  it('computes in bfloat16 what it computes in float32, but for rounding', () => {
    const half = hashedModel(reference, 'bfloat16');
    noGrad(() =>
      scope(() => {
        const { inputs, samples } = hashedInputs(half);
        const logits = half.logits(runPlan(half.plan(inputs, { train: false })));
        expect(logits.dtype).toBe('float32');
        const own = valid(
          logits,
          samples.map(({ ids }) => ids.length),
        );
        own.forEach((x, i) => {
          // some 60 operators round their results; such errors have both signs: √60 roundings
          expect(distance(probe(x), reference.logits[i]!)).toBeLessThan(
            NOISE[half.config.llm.linearAttention ? 'linear' : 'full'] * roundings(4.5, 'bfloat16'),
          );
        });
      }),
    );
    half.dispose();
  });

  it.runIf(VERSIONS[version].zeroPicture)('gives vision parameters zero gradients, not none, by a zero picture', () => {
    const vision = [...model.namedParameters()].filter(
      ([name]) => partOf(name) !== 'llm' && !model.fixedParameters.has(name),
    );
    for (const [, parameter] of vision) parameter.data.requiresGrad = true;
    scope(() => {
      const { inputs } = hashedInputs(model);
      const text = { ...inputs, pictures: [[], []], imageBounds: [[], []] };
      const hidden = runPlan(model.plan(text, { train: true, zeroPicture: true }));
      const gradients = grad(
        [ops.sumAll(hidden)],
        vision.map(([, { data }]) => data),
      );
      for (const gradient of gradients) expect(ops.maxAll(ops.abs(gradient!)).item()).toBe(0);
      const plain = runPlan(model.plan(text, { train: false }));
      expect(plain.requiresGrad).toBe(false);
      expect(ops.equal(ops.detach(hidden), plain)).toBe(true);
    });
    for (const [, parameter] of vision) parameter.data.requiresGrad = false;
  });

  it('names in every block of a plan the parameters that it reads', () => {
    scope(() => {
      const nodes = model.plan(hashedInputs(model).inputs, { train: true });
      const named = new Set(nodes.flatMap((node) => [...node.parameters.keys()]));
      const all = [...model.namedParameters()].map(([name]) => name);
      expect(all.filter((name) => !named.has(name))).toEqual(
        [...model.headParameters().keys()].filter((name) => !named.has(name)),
      );
      nodes.forEach((node, i) => {
        for (const input of node.inputs) expect(input).toBeLessThan(i);
        for (const [name, parameter] of node.parameters)
          expect(new Map(model.namedParameters()).get(name)).toBe(parameter);
      });
    });
  });

  it('leaves no tensors behind', () => {
    noGrad(() =>
      scope(() => {
        const { inputs } = hashedInputs(model);
        runPlan(model.plan(inputs, { train: false })).dispose();
        const before = liveTensors().tensors;
        runPlan(model.plan(inputs, { train: false })).dispose();
        expect(liveTensors().tensors).toBe(before);
      }),
    );
  });
});

describe('pictures in a batch', () => {
  const features = (version: VersionName): [together: Tensor, alone: Tensor] => {
    const model = hashedModel(readReference(version));
    const pictures = hashedInputs(model).inputs.pictures.flat();
    const together = model.visionFeatures(pictures)[1]!;
    const alone = model.visionFeatures([pictures[1]!])[0]!;
    model.dispose();
    return [together, alone];
  };

  it('do not influence each other', () => {
    for (const version of VERSION_NAMES.filter((name) => VERSIONS[name].positions === 'grid'))
      expect(
        noGrad(() => scope(() => relativeDifference(...features(version)))),
        version,
      ).toBeLessThan(FORWARD);
  });

  it('do so in 2.5, whose tower sees the padding', () => {
    expect(noGrad(() => scope(() => relativeDifference(...features('minicpm-llama3-v-2_5'))))).toBeGreaterThan(0.01);
  });

  it('are refused when bounds and pictures do not agree', () => {
    const model = hashedModel(readReference('minicpm-v-2_6'));
    scope(() => {
      const { inputs } = hashedInputs(model);
      expect(() => model.plan({ ...inputs, imageBounds: [[], []] }, { train: true })).toThrow('as many image bounds');
      const short = inputs.imageBounds.map((bounds) =>
        bounds.map(([start, end]): [number, number] => [start, end - 1]),
      );
      expect(() => model.plan({ ...inputs, imageBounds: short }, { train: true })).toThrow('tokens of a picture');
    });
    model.dispose();
  });

  it('may be bytes, which are normalised', () => {
    const model = hashedModel(readReference('minicpm-v-2_6'));
    noGrad(() =>
      scope(() => {
        const bytes = ops.to(ops.randint(0, 256, [3, 14, 14 * 6], {}), 'uint8');
        const floats = ops.divScalar(ops.addScalar(ops.divScalar(ops.to(bytes, 'float32'), 255), -0.5), 0.5);
        const [a, b] = model.visionFeatures([bytes, floats].map((pixels) => ({ pixels, rows: 2, cols: 3 })));
        expect(relativeDifference(a!, b!)).toBeLessThan(FORWARD);
      }),
    );
    model.dispose();
  });
});
