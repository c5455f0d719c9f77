/**
 * Random weights for a model of any size. For models trained from scratch, as in the quickstart, and for tests. The
 * distributions are those of Hugging Face's and the original code's initialisers.
 */
import { fixedTokens, type ModelConfig, partOf } from '@minicpm-finetune/processor';
import {
  type DType,
  keep,
  manualSeed,
  noGrad,
  ops,
  scope,
  type Tensor,
  withRandomState,
} from '@minicpm-finetune/torch';
import { MiniCPMV } from '../model/minicpm-v.js';
import { sinCosTable } from '../model/resampler.js';

export interface CreateOptions {
  readonly seed: number;
  readonly dtype?: DType;
}

/** A model with random weights: normal with the config's `initializer_range`, norms one, biases zero. The same seed gives the same weights. */
export function createModel(config: ModelConfig, { seed, dtype = 'float32' }: CreateOptions): MiniCPMV {
  const model = new MiniCPMV(config);
  noGrad(() =>
    withRandomState([], () => {
      manualSeed(seed, 'cpu');
      for (const [name, parameter] of model.namedParameters()) {
        parameter.data = scope(() => keep(ops.to(initial(name, parameter.shape, config), dtype)));
      }
    }),
  );
  return model;
}

/** The first value of a parameter, float32. */
function initial(name: string, shape: readonly number[], config: ModelConfig): Tensor {
  const [owner = '', own] = name.split('.').slice(-2);
  const isNorm = /norm|^ln_/.test(owner);
  if (isNorm) return own === 'weight' && !startsAtZero(name, config) ? ops.ones(shape) : ops.zeros(shape);
  if (own === 'A_log') return ops.log(ops.uniform_(ops.empty(shape), 1, LARGEST_DECAY));
  if (own === 'dt_bias') return ops.ones(shape);
  if (name.endsWith('bias')) return ops.zeros(shape);
  if (name === 'resampler.pos_embed') {
    const side = Math.sqrt(fixedTokens(config.pictureTokens));
    return sinCosTable(side, side, config.llm.hiddenSize);
  }
  const std = name === 'resampler.proj' ? shape[0]! ** -0.5 : config.initializerRange;
  return ops.normal_(ops.empty(shape), 0, std);
}

/** Of the rates at which states of linear attention fade. */
const LARGEST_DECAY = 16;

/** Whether a norm's weight is a difference from one. The norm of linear attention is not such a one. */
const startsAtZero = (name: string, { llm }: ModelConfig): boolean =>
  llm.normOffset === 1 && partOf(name) === 'llm' && !name.endsWith('linear_attn.norm.weight');
