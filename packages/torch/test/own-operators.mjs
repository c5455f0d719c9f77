/** Prints what the operators of our own make of fixed numbers in bfloat16, with their gradients, as one line of JSON. */
import { enableGrad, grad, manualSeed, ops, scope } from '../dist/index.js';

const wave = (shape, step) => {
  const count = shape.reduce((a, b) => a * b, 1);
  const numbers = ops.sin(ops.mulScalar(ops.arange(0, count, 1, { dtype: 'float32' }), step));
  return ops.to(ops.reshape(numbers, shape), 'bfloat16');
};

scope(() => {
  const [x, k, v] = [wave([1, 4, 70, 32], 0.37), wave([1, 2, 70, 32], 0.73), wave([1, 2, 70, 32], 1.1)];
  for (const leaf of [x, k, v]) leaf.requiresGrad = true;
  manualSeed(1);
  const functions = {
    attention: () => ops.attention(x, k, v, { lengths: [40, 30], is_causal: true }),
    windows: () => ops.attention(x, k, v, { lengths: [16, 16, 16, 16, 6] }),
    gelu: () => ops.gelu(x, { approximate: 'tanh' }),
    swiglu: () => ops.swiglu(x, ops.repeatInterleave(v, 2, 1)),
    rmsNorm: () => ops.rmsNorm(x, ops.arange(1, 33, 1, { dtype: 'bfloat16' }), 1e-6),
    dropout: () => ops.dropout(x, 0.25),
  };
  const results = Object.entries(functions).map(([name, f]) => {
    const y = enableGrad(f);
    const [gradient] = grad([y], [x], { gradOutputs: [wave([1, 4, 70, 32], 0.9)] });
    return [name, [ops.detach(y), gradient].map((result) => ops.reshape(ops.to(result, 'float32'), [-1]).toNumbers())];
  });
  console.log(JSON.stringify(Object.fromEntries(results)));
});
