/** The encoder flags that check-data and render share. */
import { CONFIG_FLAGS, type Flag, type FlagSpec, type FlagTable, type PreferenceLoss } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import type { EncoderDataFlags, EncoderModelFlags, EncoderSetup } from '../../data/encoder.js';
import { videoChoices, videoFlags } from '../../data/video-flags.js';
import { VIDEO_FLAGS } from '../chat/flags.js';
import { type CommandIO, flagValue } from '../cli-command.js';
import { modelFolder } from './model-flag.js';

/**
 * How the flags of a command (those of `train` of the same names) say that records are encoded. A model of the hub is downloaded without its
 * weights; `stderr` shows that. Throws UserError.
 */
export async function encoderFromFlags(
  given: GivenValues,
  flags: readonly Flag[],
  io: CommandIO,
): Promise<EncoderSetup> {
  const [{ encoderSetup, unusedByModel }, { readConfig }] = await Promise.all([
    import('../../data/encoder.js'),
    import('@minicpm-finetune/processor'),
  ]);
  const value = <T>(name: string): T => flagValue<T>(given, flags.find((flag) => flag.name === name)!);
  const model: EncoderModelFlags = {
    llm_type: value('llm_type'),
    max_slice_nums: value('max_slice_nums'),
    scale_resolution: value('scale_resolution'),
  };
  const data: EncoderDataFlags = {
    model_max_length: value('model_max_length'),
    overlong: value('overlong'),
    compat: value('compat'),
    thinking: value('thinking'),
    video_fps: value('video_fps'),
    video_max_frames: value('video_max_frames'),
    video_max_packing: value('video_max_packing'),
    video_max_slice_nums: value('video_max_slice_nums'),
    allow_special_text: value('allow_special_text'),
    max_image_pixels: value('max_image_pixels'),
  };
  const folder = await modelFolder(given, flags, 'model_name_or_path', io, false);
  const read = await asInTraining({ model, data }, folder, value<readonly string[]>('adapter'), given, io);
  for (const notice of unusedByModel(data, readConfig(folder))) io.stderr.write(`${io.say(`notice: ${notice}`)}\n`);
  return encoderSetup(folder, read.model, read.data, value<PreferenceLoss | null>('preference'));
}

interface EncoderFlags {
  readonly model: EncoderModelFlags;
  readonly data: EncoderDataFlags;
}

/** The flags with what adapters, or the checkpoint, were trained with for those that were not given. What is not the checkpoint's is said. */
async function asInTraining(
  flags: EncoderFlags,
  folder: string,
  adapters: readonly string[],
  given: GivenValues,
  io: CommandIO,
): Promise<EncoderFlags> {
  const [{ describeEncoding, encodingOfAdapters, ...files }, { readConfig, videoOf }] = await Promise.all([
    import('@minicpm-finetune/minicpm-v/adapter-files'),
    import('@minicpm-finetune/processor'),
  ]);
  const trained = adapters.map((adapter) => {
    files.readAdapterConfig(adapter); // refuses a folder that is none of an adapter
    const { slices = null, videos = null, encoding = null } = files.readManifest(adapter) ?? {};
    return { adapter, slices, videos, encoding };
  });
  const config = readConfig(folder);
  const { slice, notices } = files.slicesOfAdapters(trained, config.slice);
  const { video, notices: ofVideos } = files.videosOfAdapters(trained, config.video);
  const { model, data } = flags;
  const encoding = encodingOfAdapters(trained, config.encoding);
  const compat = given.has('compat') ? data.compat : encoding.compat;
  const thinking = given.has('thinking') ? data.thinking : encoding.thinking;
  const other = compat !== data.compat || thinking !== data.thinking;
  const ofRecords = other ? [`records are encoded as in the training: ${describeEncoding({ compat, thinking })}.`] : [];
  for (const notice of [...notices, ...ofVideos, ...ofRecords]) io.stderr.write(`${io.say(`notice: ${notice}`)}\n`);
  return {
    model: {
      ...model,
      max_slice_nums: model.max_slice_nums ?? slice.maxSliceNums,
      scale_resolution: model.scale_resolution ?? slice.scaleResolution,
    },
    data: { ...data, compat, thinking, ...videoFlags(videoOf(video, videoChoices(data)) ?? videoChoices(data)) },
  };
}

/** The flags of think blocks and videos. */
export const THINKING_AND_VIDEOS = {
  thinking: CONFIG_FLAGS.data.thinking,
  ...VIDEO_FLAGS,
} as const satisfies FlagTable;

/** The adapters whose training says how records are encoded. */
export const ADAPTER_SLICES = {
  kind: 'strings',
  default: [],
  placeholder: 'dir',
  help: {
    en: 'Adapter folder: records are encoded, pictures cut and videos read as in its training, unless a flag says otherwise.',
    zh: '适配器目录：记录编码、图片切片和视频读取与其训练时一致，除非参数另有指定。',
  },
} as const satisfies FlagSpec;
