/** Tensors, gradients and AdamW alone: fits y = 2x + 1 to four points. `node examples/tensors.ts` */
import { AdamW, grad, ops, scope, tensor } from '@minicpm-finetune/torch';

const x = tensor([[0], [1], [2], [3]]); // (N, 1)
const y = tensor([[1], [3], [5], [7]]);
const weight = tensor([[0]]); // (out, in), as in PyTorch
const bias = tensor([0]);
for (const parameter of [weight, bias]) parameter.requiresGrad = true;

const params = new Map([
  ['weight', weight],
  ['bias', bias],
]);
const optimizer = new AdamW([{ name: 'all', params, lr: 0.1, weightDecay: 0 }], {
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
});

for (let step = 1; step <= 300; step++) {
  // Everything made inside the scope is freed at its end, gradients and graph included.
  scope(() => {
    const loss = ops.meanAll(ops.square(ops.sub(ops.linear(x, weight, bias), y)));
    const gradients = grad([loss], [weight, bias]);
    optimizer.step(new Map([...params.keys()].map((name, i) => [name, gradients[i]!])));
    if (step % 100 === 0) console.log(`step ${step}: loss ${loss.item().toFixed(6)}`);
  });
}
console.log(`y = ${weight.item().toFixed(2)} x + ${bias.item().toFixed(2)}`);
