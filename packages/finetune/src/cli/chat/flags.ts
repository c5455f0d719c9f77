/** The flags of `minicpm-finetune chat`. */
import type { VideoChoices } from '@minicpm-finetune/processor';
import { CONFIG_FLAGS, DEVICE, type FlagTable, flagsOf } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import { flagValue, requiredValue } from '../cli-command.js';
import type { CommandText } from '../command.js';
import type { ChatOptions } from './options.js';

/** Which model a command uses, and on what. */
export const MODEL_FLAGS = {
  model: {
    kind: 'string',
    required: true,
    placeholder: 'dir|hub-id',
    help: { en: 'Checkpoint to talk to.', zh: '用来对话的检查点。' },
  },
  cache_dir: CONFIG_FLAGS.model.cache_dir,
  adapter: {
    kind: 'strings',
    default: [],
    placeholder: 'dir',
    help: {
      en: 'Adapter folder. Repeat the flag to stack adapters; each is applied on top of the previous result.',
      zh: '适配器目录。可重复给出以叠加多个适配器；每个都作用在前面的结果之上。',
    },
  },
  dtype: {
    kind: 'choice',
    choices: ['float32', 'bfloat16', 'float16'],
    default: null,
    help: { en: "Type to compute in; the weights' own unless given.", zh: '计算所用的数据类型；默认与权重相同。' },
  },
  load_in_8bit: {
    kind: 'boolean',
    default: false,
    help: {
      en: "Keep the language model's linear weights as 8-bit integers with a scale a row: half the memory of bfloat16, faster answers on a CPU.",
      zh: '语言模型的线性层权重以 8 位整数保存，每行一个缩放系数：内存为 bfloat16 的一半，在 CPU 上回答更快。',
    },
  },
  ...DEVICE,
} as const satisfies FlagTable;

/** How pictures are cut, where the model's training says it. */
export const SLICE_FLAGS = {
  max_slice_nums: {
    kind: 'integer',
    min: 1,
    default: null,
    help: {
      en: "Most slices a picture is cut into; as in the adapter's training, or as the checkpoint says, unless given.",
      zh: '一张图片最多切成的切片数；默认与适配器的训练一致，否则取检查点中的值。',
    },
  },
  scale_resolution: {
    kind: 'integer',
    min: 14,
    default: null,
    help: {
      en: "Side in pixels of the square a slice's area aims at; likewise.",
      zh: '切片面积所对应正方形的边长（像素）；默认值同上。',
    },
  },
} as const satisfies FlagTable;

/** How frames of videos are sampled. */
export const VIDEO_FLAGS = {
  video_fps: CONFIG_FLAGS.data.video_fps,
  video_max_frames: CONFIG_FLAGS.data.video_max_frames,
  video_max_packing: CONFIG_FLAGS.data.video_max_packing,
  video_max_slice_nums: CONFIG_FLAGS.data.video_max_slice_nums,
} as const satisfies FlagTable;

const CONVERSATION = {
  image: {
    kind: 'strings',
    default: [],
    placeholder: 'file',
    help: { en: 'Picture to ask about; may be given several times.', zh: '要提问的图片；可以给出多次。' },
  },
  video: {
    kind: 'strings',
    default: [],
    placeholder: 'file|dir',
    help: {
      en: 'Video to ask about, a file or a folder of frames; may be given several times. Videos come after the pictures.',
      zh: '要提问的视频：文件或帧目录；可以给出多次。视频排在图片之后。',
    },
  },
  prompt: {
    kind: 'string',
    default: null,
    help: {
      en: 'One question to answer; without it, a conversation starts.',
      zh: '要回答的一个问题；不给则开始对话。',
    },
  },
  system: { kind: 'string', default: null, help: { en: 'System prompt.', zh: '系统提示词。' } },
  ...SLICE_FLAGS,
  ...VIDEO_FLAGS,
} as const satisfies FlagTable;

/** Settings of the answers. */
export const SAMPLING_FLAGS = {
  max_new_tokens: {
    kind: 'integer',
    min: 1,
    default: 1024,
    help: { en: 'Longest answer in tokens.', zh: '回答的最大长度（词元数）。' },
  },
  temperature: {
    kind: 'number',
    min: 0,
    default: 0,
    help: { en: 'Randomness; 0: always the most likely token.', zh: '采样温度；0 表示总是取概率最大的词元。' },
  },
  top_p: {
    kind: 'number',
    above: 0,
    max: 1,
    default: 1,
    idle: [{ when: [{ flag: 'temperature', is: [0] }] }],
    help: {
      en: 'Sample from the likeliest tokens whose probabilities sum to this.',
      zh: '只在累计概率达到此值的最可能词元中采样。',
    },
  },
  top_k: {
    kind: 'integer',
    min: 0,
    default: 0,
    idle: [{ when: [{ flag: 'temperature', is: [0] }] }],
    help: {
      en: 'Sample from this many likeliest tokens; 0: from all.',
      zh: '只在这么多个最可能的词元中采样；0 表示全部。',
    },
  },
  repetition_penalty: {
    kind: 'number',
    above: 0,
    default: 1,
    help: { en: 'Above 1: tokens already used become less likely.', zh: '大于 1 时降低已出现词元的概率。' },
  },
  seed: {
    kind: 'integer',
    min: 0,
    default: 42,
    idle: [{ when: [{ flag: 'temperature', is: [0] }] }],
    help: { en: 'Seed of sampling.', zh: '采样的随机种子。' },
  },
  enable_thinking: {
    kind: 'boolean',
    default: false,
    help: {
      en: 'Let the model think before it answers (MiniCPM-V 4.5, 4.6, 4.7): the thought, </think>, the answer. Otherwise the prompt ends with an empty think block.',
      zh: '让模型先思考再回答（MiniCPM-V 4.5、4.6、4.7）：先是思考内容，再是 </think>，然后是回答。否则提示以空的思考块结尾。',
    },
  },
} as const satisfies FlagTable;

export const CHAT_FLAGS = flagsOf({ model: MODEL_FLAGS, conversation: CONVERSATION, sampling: SAMPLING_FLAGS });

export const CHAT_TEXT: CommandText = {
  name: 'chat',
  summary: { en: 'Ask a model about pictures and videos.', zh: '就图片和视频向模型提问。' },
  description: {
    en: [
      'Talks with a checkpoint, with or without adapters, in the terminal. Answers are shown token by token.',
      "MiniCPM-V's own demos sample: --temperature 0.7 --top_p 0.8 --top_k 100 --repetition_penalty 1.05.",
    ].join('\n'),
    zh: [
      '在终端里与检查点对话，可以加适配器。回答逐词元显示。',
      'MiniCPM-V 自己的演示使用采样：--temperature 0.7 --top_p 0.8 --top_k 100 --repetition_penalty 1.05。',
    ].join('\n'),
  },
  headings: {
    model: { en: 'Model', zh: '模型' },
    conversation: { en: 'Conversation', zh: '对话' },
    sampling: { en: 'Answers', zh: '回答' },
  },
  examples: {
    en: [
      'Examples:',
      '',
      '  One answer, on standard output:',
      '',
      '    minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --image invoice.png --prompt "What is the total?"',
      '',
      '  A conversation with your adapter:',
      '',
      '    minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --image invoice.png',
    ].join('\n'),
    zh: [
      '示例：',
      '',
      '  在标准输出上给出一个回答：',
      '',
      '    minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --image invoice.png --prompt "总金额是多少？"',
      '',
      '  用你的适配器对话：',
      '',
      '    minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --image invoice.png',
    ].join('\n'),
  },
};

/** What the flags of videos say. */
export const videoOf = (value: <T>(name: string) => T): VideoChoices => ({
  fps: value<number | null>('video_fps'),
  maxFrames: value<number | null>('video_max_frames'),
  maxPacking: value<number | null>('video_max_packing'),
  maxSliceNums: value<number | null>('video_max_slice_nums'),
});

/** @throws UserError without a model. */
export function resolveChatOptions(given: GivenValues): ChatOptions {
  const value = <T>(name: string): T => flagValue<T>(given, CHAT_FLAGS.find((flag) => flag.name === name)!);
  return Object.freeze({
    model: requiredValue<string>(given, CHAT_FLAGS, 'model'),
    adapters: value<string[]>('adapter'),
    images: value<string[]>('image'),
    videos: value<string[]>('video'),
    prompt: value<string | null>('prompt'),
    system: value<string | null>('system'),
    maxNewTokens: value<number>('max_new_tokens'),
    temperature: value<number>('temperature'),
    topP: value<number>('top_p'),
    topK: value<number>('top_k'),
    repetitionPenalty: value<number>('repetition_penalty'),
    seed: value<number>('seed'),
    enableThinking: value<boolean>('enable_thinking'),
    dtype: value<ChatOptions['dtype']>('dtype'),
    loadIn8Bit: value<boolean>('load_in_8bit'),
    maxSliceNums: value<number | null>('max_slice_nums'),
    scaleResolution: value<number | null>('scale_resolution'),
    video: videoOf(value),
    device: value<ChatOptions['device']>('device'),
    threads: value<number | null>('threads'),
  });
}
