// Writes the logits of a model with an adapter. check_adapter.py compares them: inputs and logits are one safetensors
// file.
//
//     node packages/lab/python/adapter-logits.mjs --model DIR --adapter DIR --out FILE
//
// The inputs are arbitrary: tokens around two pictures of different shapes. Only models whose pictures travel as strips of patches. Where tokens of
// pictures have an id or lie on a canvas, they and their marks stand in the text as a processor writes them.
import { parseArgs } from 'node:util';
import { loadAdapter, loadWeights, MiniCPMV, runPlan } from '@minicpm-finetune/minicpm-v';
import { canvasPositions, countTokens, readConfig, VERSIONS } from '@minicpm-finetune/processor';
import { fromTypedArray, noGrad, ops, writeSafetensors } from '@minicpm-finetune/torch';

const GRIDS = [
  [4, 6],
  [7, 5],
];
const TEXT = 8;

const { values } = parseArgs({
  options: { model: { type: 'string' }, adapter: { type: 'string' }, out: { type: 'string' } },
});
const { model: folder, adapter, out } = values;
if (folder === undefined || adapter === undefined || out === undefined) {
  console.error('usage: node packages/lab/python/adapter-logits.mjs --model DIR --adapter DIR --out FILE');
  process.exit(2);
}

const model = new MiniCPMV(readConfig(folder));
loadWeights(model, folder, { dtype: 'float32' });
loadAdapter(adapter, model, { trainable: false });

const { pictureTokens, llm, vision, canvas, text, version } = model.config;
const patch = vision.patchSize;
const multiple = VERSIONS[version].sliceMultiple;
const SIZES = GRIDS.map((sides) => sides.map((side) => side * multiple));
let length = TEXT;
const bounds = SIZES.map(([rows, cols]) => {
  const start = length;
  const end = start + countTokens(pictureTokens, { rows, cols });
  length = end + TEXT;
  return [start, end];
});
const ids = BigInt64Array.from({ length }, (_, i) => BigInt((i * 7919 + 13) % llm.vocabSize));
const { image_token_id: pad } = JSON.parse(text);
for (const [start, end] of bounds) {
  if (pad !== undefined) ids.fill(BigInt(pad), start, end);
  if (canvas !== null) [ids[start - 1], ids[end]] = [BigInt(canvas.imageStart), BigInt(canvas.imageEnd)];
}
const grids = SIZES.map(([rows, cols], i) => {
  const side = Math.sqrt((rows * cols) / (bounds[i][1] - bounds[i][0]));
  return [rows / side, cols / side];
});
const positions =
  canvas === null
    ? ops.unsqueeze(ops.arange(0, length, 1, { dtype: 'int64' }), 0)
    : fromTypedArray(
        BigInt64Array.from(
          canvasPositions({ inputIds: Array.from(ids, Number), bounds, grids, marks: canvas }).positionIds,
          BigInt,
        ),
        [3, 1, length],
      );
const pixels = SIZES.map(([rows, cols], k) => {
  const values = Float32Array.from({ length: 3 * patch * patch * rows * cols }, (_, i) => Math.sin(i * (k + 1) * 0.7));
  return fromTypedArray(values, [3, patch, patch * rows * cols]);
});
const inputs = {
  inputIds: fromTypedArray(ids, [1, length]),
  positionIds: positions,
  pictures: [SIZES.map(([rows, cols], k) => ({ pixels: pixels[k], rows, cols }))],
  imageBounds: [bounds],
};
const logits = noGrad(() => model.logits(runPlan(model.plan(inputs, { train: false }))));
writeSafetensors(
  out,
  new Map([
    ['input_ids', inputs.inputIds],
    ['position_ids', inputs.positionIds],
    ['image_bound', fromTypedArray(Int32Array.from(bounds.flat()), [SIZES.length, 2])],
    ['tgt_sizes', fromTypedArray(Int32Array.from(SIZES.flat()), [SIZES.length, 2])],
    ...pixels.map((tensor, k) => [`pixel_values.${k}`, tensor]),
    ['logits', logits],
  ]),
);
