/** What llama.cpp does otherwise than the training. With its consequence: nothing that a file can say changes it. */
import { type ModelConfig, VERSIONS } from '@minicpm-finetune/processor';
import { familyOf } from './families.js';
import type { MergedWeights } from './merged-weights.js';

/** llama.cpp's own number of slices. */
const MAX_SLICES = 9;

/** Sentences for a model, the ones that change the most first. */
export function differences(config: ModelConfig, { slice }: Pick<MergedWeights, 'slice'>): string[] {
  const { version, llm } = config;
  const { title, positions, frameGroups } = VERSIONS[version];
  if (familyOf(config).projector === null)
    return [
      `llama.cpp does not read the vision tower of ${title}: the file answers text alone. For pictures use serve, or vLLM with --format safetensors.`,
    ];
  return [
    ...(familyOf(config).projector!.type === 'resampler'
      ? []
      : [
          `llama.cpp gives the tokens of pictures other positions than ${title} was trained with: answers about pictures differ there from those of chat and serve. Answers about text do not.`,
        ]),
    ...(positions === 'strip'
      ? [
          `llama.cpp gives the patches of a picture two-dimensional positions; ${title} was trained as published, with every picture as one row of patches: answers about pictures are worse there than with chat or serve.`,
        ]
      : []),
    ...(slice.maxSliceNums === MAX_SLICES
      ? []
      : [
          `llama.cpp cuts pictures into at most ${MAX_SLICES} slices, the training into at most ${slice.maxSliceNums}: large pictures get more tokens there than they were trained with. Make pictures smaller before you send them.`,
        ]),
    ...(familyOf(config).pre === 'default'
      ? [
          'llama.cpp writes a new line between rows of slices; the training, whose tokenizer puts a space in front of it, two tokens: pictures that are cut into more than one row have other prompts there.',
        ]
      : []),
    ...(frameGroups
      ? [`llama.cpp does not read videos as ${title} was trained with them: frames are pictures there.`]
      : []),
    ...(config.sliceMode ? [] : ['llama.cpp cuts large pictures into slices; the model was trained without slices.']),
    `llama.cpp cuts a picture into slices if one of its sides is longer than ${slice.scaleResolution} pixels, the training if its area is larger than that of a square of this side: long pictures have more tokens there. It stretches smaller pictures to that square, and resizes with other filters. Squares of this side, and of twice or three times it, are read alike.`,
    ...(llm.longRope === null
      ? []
      : [
          `llama.cpp chooses the long rotary factors if the context size (-c) is larger than ${llm.longRope.originalMaxPositions}, transformers if the text is longer: give a larger -c only for longer texts.`,
        ]),
  ];
}
