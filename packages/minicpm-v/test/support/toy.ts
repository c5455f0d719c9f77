/** The toy model of fixtures/lora/make-lora.py, with its names and arithmetic. */
import { join } from 'node:path';
import {
  type DType,
  Embedding,
  keep,
  LayerNorm,
  Linear,
  Module,
  ops,
  SafetensorsFile,
  scope,
  type Tensor,
} from '@minicpm-finetune/torch';

export const FIXTURES = join(import.meta.dirname, '..', 'fixtures', 'lora');
const D = 6;

class Layer extends Module {
  readonly q = this.child('self_attn.q_proj', new Linear(D, D, { bias: true }));
  readonly v = this.child('self_attn.v_proj', new Linear(D, 4, { bias: true }));
  readonly o = this.child('self_attn.o_proj', new Linear(4, D, { bias: false }));
  readonly norm = this.child('norm', new LayerNorm(D, 1e-5));

  forward(x: Tensor): Tensor {
    return ops.add(x, this.o.forward(ops.tanh(this.v.forward(this.q.forward(this.norm.forward(x))))));
  }
}

class Resampler extends Module {
  readonly kvProj = this.child('kv_proj', new Linear(D, D, { bias: false }));
  readonly ln = this.child('ln', new LayerNorm(D, 1e-5));
  readonly query = this.parameter('query', [D]);
}

export class Toy extends Module {
  readonly embedTokens = this.child('llm.model.embed_tokens', new Embedding(7, D));
  readonly layers = this.childList('llm.model.layers', [new Layer(), new Layer()]);
  readonly lmHead = this.child('llm.lm_head', new Linear(D, 7, { bias: false }));
  readonly resampler = this.child('resampler', new Resampler());

  forward(ids: Tensor): Tensor {
    const { kvProj, ln, query } = this.resampler;
    let x = this.embedTokens.forward(ids);
    x = ops.add(ops.add(x, ln.forward(kvProj.forward(x))), query.data);
    for (const layer of this.layers) x = layer.forward(x);
    return this.lmHead.forward(x);
  }
}

/** The toy with its base weights. */
export function toy(dtype: DType = 'float32'): Toy {
  const model = new Toy();
  const source = new SafetensorsFile(join(FIXTURES, 'base.safetensors'));
  for (const [name, parameter] of model.namedParameters()) {
    parameter.data = scope(() => keep(ops.to(source.tensor(name), dtype, false, true)));
  }
  return model;
}
