/** Flags of `train`: model, data and run folder. */
import type { FlagTable } from './spec.js';

export const MODEL = {
  model_name_or_path: {
    kind: 'string',
    required: true,
    placeholder: 'dir|hub-id',
    freeOnResume: true,
    help: { en: 'Checkpoint to start from.', zh: '作为起点的检查点。' },
  },
  llm_type: {
    kind: 'choice',
    choices: ['minicpm', 'llama3', 'qwen', 'llama', 'qwen3', 'qwen3_5'],
    default: null,
    help: {
      en: 'Chat format; recognised from the checkpoint, and checked against it if given.',
      zh: '对话格式；默认从检查点识别，给出时会与检查点核对。',
    },
  },
  cache_dir: {
    kind: 'string',
    default: null,
    placeholder: 'dir',
    freeOnResume: true,
    help: {
      en: 'Folder of downloaded checkpoints; the Hugging Face cache unless given.',
      zh: '下载的检查点所在的目录；默认为 Hugging Face 缓存。',
    },
  },
  max_slice_nums: {
    kind: 'integer',
    min: 1,
    default: null,
    help: {
      en: "Most slices a picture is cut into, besides the overview picture; the checkpoint's unless given (9 as published). The result keeps it.",
      zh: '一张图片最多切成的切片数（不含缩略图）；默认取检查点中的值（官方发布的为 9）。训练结果会保存该值。',
    },
  },
  scale_resolution: {
    kind: 'integer',
    min: 14,
    default: null,
    help: {
      en: "Side in pixels of the square a slice's area aims at; the checkpoint's unless given. The result keeps it.",
      zh: '切片面积所对应正方形的边长（像素）；默认取检查点中的值。训练结果会保存该值。',
    },
  },
  vision_batch_size: {
    kind: 'integer',
    min: 1,
    default: null,
    help: {
      en: "Most slices in the vision tower at once; the checkpoint's unless given.",
      zh: '视觉编码器一次最多处理的切片数；默认取检查点中的值。',
    },
  },
} as const satisfies FlagTable;

export const DATA = {
  data_path: {
    kind: 'strings',
    required: true,
    placeholder: 'file...',
    freeOnResume: true,
    help: { en: 'Training data (JSON, JSON Lines, parquet).', zh: '训练数据（JSON、JSON Lines 或 parquet）。' },
  },
  data_weights: {
    kind: 'numbers',
    above: 0,
    default: null,
    help: {
      en: 'Mixing weight of each training file; without weights every record is used once an epoch.',
      zh: '各训练文件的混合权重；不给时每条记录每轮使用一次。',
    },
  },
  eval_data_path: {
    kind: 'strings',
    default: [],
    placeholder: 'file...',
    freeOnResume: true,
    idle: [
      {
        when: [
          { flag: 'do_eval', is: [false] },
          { flag: 'eval_on_start', is: [false] },
          { flag: 'eval_strategy', is: ['no'] },
        ],
        why: {
          en: 'nothing says when to evaluate; give --eval_strategy steps, or --do_eval',
          zh: '没有指定何时评估；请给出 --eval_strategy steps 或 --do_eval',
        },
      },
    ],
    help: { en: 'Evaluation data.', zh: '评估数据。' },
  },
  model_max_length: {
    kind: 'integer',
    min: 16,
    default: 2048,
    help: { en: 'Longest sequence in tokens.', zh: '序列的最大长度（词元数）。' },
  },
  overlong: {
    kind: 'choice',
    choices: ['fewer_slices', 'truncate_text', 'drop', 'error'],
    default: 'fewer_slices',
    help: {
      en: 'What to do with a longer one. A picture is never cut in two; fewer_slices falls back to truncate_text.',
      zh: '超长序列的处理方式。绝不会把一张图片截成两半；fewer_slices 仍不够时改用 truncate_text。',
    },
  },
  compat: {
    kind: 'choice',
    choices: ['inference', 'official'],
    default: 'inference',
    help: {
      en: 'How records are encoded. inference: as the model gets them when it answers. official: as the official training code does.',
      zh: '记录的编码方式。inference：与模型回答时相同；official：与官方训练代码相同。',
    },
  },
  thinking: {
    kind: 'choice',
    choices: ['inference', 'every_turn', 'as_written'],
    default: 'inference',
    idle: [{ when: [{ flag: 'compat', is: ['official'] }] }],
    help: {
      en: 'Think blocks of models that think. inference: as when the model answers, thoughts are learned and an empty block is prompt. every_turn: a block in every answer, empty ones learned, as ms-swift does. as_written: only those of the data, as LLaMA-Factory does.',
      zh: '会思考的模型的思考块。inference：与模型回答时相同，学习思考内容，空块属于提示；every_turn：每个回答都带思考块，空块也学习，与 ms-swift 相同；as_written：只保留数据中写出的，与 LLaMA-Factory 相同。',
    },
  },
  video_fps: {
    kind: 'number',
    above: 0,
    default: null,
    help: {
      en: "Frames of a second of video; the model's way unless given (3 for 4.5, 1 for 4.6 and 4.7). A folder of frames counts as taken at this rate.",
      zh: '视频每秒取的帧数；默认与模型发布的处理方式相同（4.5 为 3，4.6 和 4.7 为 1）。帧目录视为按此帧率截取。',
    },
  },
  video_max_frames: {
    kind: 'integer',
    min: 1,
    default: null,
    help: {
      en: "Most frames of a video (groups of frames for 4.5); a longer one is thinned out evenly. The model's way unless given (180 for 4.5, 128 for 4.6 and 4.7).",
      zh: '一个视频最多的帧数（4.5 为帧组数）；更长的视频会均匀抽取。默认与模型发布的处理方式相同（4.5 为 180，4.6 和 4.7 为 128）。',
    },
  },
  video_max_packing: {
    kind: 'integer',
    min: 1,
    max: 6,
    default: null,
    help: {
      en: 'Most frames of a long video that share the tokens of one picture, for 4.5; 3 unless given.',
      zh: '4.5 中长视频最多有多少帧共用一张图片的词元；默认为 3。',
    },
  },
  video_max_slice_nums: {
    kind: 'integer',
    min: 1,
    default: null,
    help: {
      en: 'Most slices a frame is cut into; 1 unless given: frames are not cut.',
      zh: '一帧最多切成的切片数；默认为 1，即不切片。',
    },
  },
  on_bad_record: {
    kind: 'choice',
    choices: ['stop', 'skip'],
    default: 'stop',
    freeOnResume: true,
    help: { en: 'Stop at a bad record, or count, report and skip it.', zh: '遇到坏记录时停止，或计数、报告并跳过。' },
  },
  preflight: {
    kind: 'choice',
    choices: ['quick', 'full'],
    default: 'quick',
    freeOnResume: true,
    help: {
      en: 'What is checked before the first step: quick decodes the first 256 records and reads the headers of all others, which are decoded beside the training; full decodes all of them first.',
      zh: '第一步之前的检查：quick 解码前 256 条记录并读取其余图片的文件头，其余的在训练的同时解码；full 先解码全部图片。',
    },
  },
  max_bad_fraction: {
    kind: 'number',
    min: 0,
    max: 1,
    default: 0.01,
    freeOnResume: true,
    idle: [{ when: [{ flag: 'on_bad_record', is: ['stop'] }] }],
    help: {
      en: 'With skip: the share of bad records above which the run stops.',
      zh: '跳过坏记录时：坏记录的比例超过此值则停止训练。',
    },
  },
  allow_special_text: {
    kind: 'boolean',
    default: false,
    help: {
      en: 'Encode special tokens typed in a text as plain text; otherwise they are an error.',
      zh: '把文本中写出的特殊词元当作普通文字编码；否则视为错误。',
    },
  },
  max_image_pixels: {
    kind: 'integer',
    min: 1,
    default: 100_000_000,
    help: {
      en: 'Largest picture accepted, in pixels (width times height).',
      zh: '可接受的最大图片，以像素计（宽乘高）。',
    },
  },
} as const satisfies FlagTable;

export const OUTPUT = {
  output_dir: {
    kind: 'string',
    required: true,
    placeholder: 'dir',
    freeOnResume: true,
    help: { en: 'The run folder: checkpoints, events, results.', zh: '运行目录：检查点、事件记录和结果。' },
  },
  overwrite_output_dir: {
    kind: 'boolean',
    default: false,
    freeOnResume: true,
    help: { en: 'Remove an earlier run in the run folder.', zh: '删除运行目录中先前的运行。' },
  },
  run_name: {
    kind: 'string',
    default: null,
    freeOnResume: true,
    help: { en: "Name shown in logs; the run folder's unless given.", zh: '日志中显示的名称；默认为运行目录名。' },
  },
} as const satisfies FlagTable;
