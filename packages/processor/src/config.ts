/**
 * Reads config.json and recognises the model. Checks the file and returns camelCase numbers with every default filled
 * in. Nothing else reads the file's keys.
 *
 * Not here: what differs between the models beside sizes (versions.ts, llms.ts).
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expected, type LlmType, readText, shown, UserError } from '@minicpm-finetune/run';
import { flatParts } from './config-flat.js';
import { nestedParts, patchesPerToken } from './config-nested.js';
import {
  checkEncoding,
  checkMarks,
  checkNestedConfig,
  checkRawConfig,
  checkVideoSampling,
  parseRaw,
} from './config-schema.js';
import type { DownsampleMode, ModelConfig, RecordEncoding } from './model-config.js';
import { recogniseVersion, VERSIONS, type VersionName } from './versions.js';
import { choicesOfSettings, publishedVideo, settingsOfVideo, type VideoConfig, videoOf } from './video-config.js';

/** The file beside config.json with the settings of Python's image processor. */
export const PREPROCESSOR_CONFIG = 'preprocessor_config.json';

/** Reads `<folder>/config.json`. Throws a UserError naming file and key. */
export function readConfig(folder: string): ModelConfig {
  const file = join(folder, 'config.json');
  let text: string;
  try {
    text = readText(file, 'config.json');
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`Expected a readable config.json for the model but received ${(cause as Error).message}.`, {
      file,
      cure: 'Give the folder that holds config.json and the safetensors files.',
      cause,
    });
  }
  const preprocessor = join(folder, PREPROCESSOR_CONFIG);
  return parseConfig(text, file, existsSync(preprocessor) ? readText(preprocessor, PREPROCESSOR_CONFIG) : undefined);
}

/** The same from text; `file` is for messages. `preprocessor`: the text of preprocessor_config.json, where a nested configuration has its slices. */
export function parseConfig(text: string, file: string, preprocessor?: string): ModelConfig {
  const json = parseRaw(text, file);
  const version = versionOf(json, file);
  const parts =
    VERSIONS[version].config === 'flat'
      ? flatParts(checkRawConfig(json, file), version, file)
      : nestedParts(checkNestedConfig(json, file), version, file, preprocessor);
  const video = videoOf(publishedVideo(version), choicesOfSettings(checkVideoSampling(json, file)));
  return { version, ...parts, video, encoding: checkEncoding(json, file), text, file };
}

/**
 * The configuration with other slices, in its numbers and in its text, under the keys that the file has already; the rest of the text keeps its
 * content. The same slices give the same text.
 */
export function withSlice(config: ModelConfig, slice: ModelConfig['slice']): ModelConfig {
  const { maxSliceNums, scaleResolution } = slice;
  if (maxSliceNums === config.slice.maxSliceNums && scaleResolution === config.slice.scaleResolution) return config;
  const raw = JSON.parse(config.text) as Record<string, unknown> & { slice_config?: Record<string, unknown> | null };
  const values = { max_slice_nums: maxSliceNums, scale_resolution: scaleResolution };
  const inside = raw.slice_config != null;
  if (inside) raw.slice_config = { ...raw.slice_config, ...values };
  for (const [key, value] of Object.entries(values)) if (!inside || key in raw) raw[key] = value;
  return {
    ...config,
    slice: { ...config.slice, maxSliceNums, scaleResolution },
    text: `${JSON.stringify(raw, null, 2)}\n`,
  };
}

/**
 * The configuration with another way to read videos, in its numbers and in its text, under a key of this program (`video_sampling`). The same
 * way gives the same text.
 */
export function withVideo(config: ModelConfig, video: VideoConfig | null): ModelConfig {
  if (video === null || config.video === null) return config;
  const settings = settingsOfVideo(video);
  if (JSON.stringify(settings) === JSON.stringify(settingsOfVideo(config.video))) return config;
  const raw = JSON.parse(config.text) as Record<string, unknown>;
  return { ...config, video, text: `${JSON.stringify({ ...raw, video_sampling: settings }, null, 2)}\n` };
}

/** The configuration with another encoding of records, likewise (`record_encoding`). */
export function withEncoding(config: ModelConfig, encoding: RecordEncoding): ModelConfig {
  const { compat, thinking } = encoding;
  if (compat === config.encoding.compat && thinking === config.encoding.thinking) return config;
  const raw = JSON.parse(config.text) as Record<string, unknown>;
  const text = `${JSON.stringify({ ...raw, record_encoding: { compat, thinking } }, null, 2)}\n`;
  return { ...config, encoding: { compat, thinking }, text };
}

/** The configuration with another number of patches for each token, in its numbers and in its text. The same number gives the same configuration. */
export function withDownsampleMode(config: ModelConfig, mode: DownsampleMode): ModelConfig {
  const { merger } = config;
  if (merger === null || merger.downsampleMode === mode) return config;
  const raw = JSON.parse(config.text) as Record<string, unknown>;
  return {
    ...config,
    merger: { ...merger, downsampleMode: mode },
    pictureTokens: { patchesPerToken: patchesPerToken(mode) },
    text: `${JSON.stringify({ ...raw, downsample_mode: mode }, null, 2)}\n`,
  };
}

/** Checks that `--llm_type` fits the model. Throws a UserError naming the right value. */
export function checkLlmType(config: ModelConfig, llmType: string): asserts llmType is LlmType {
  const { llmType: right, title } = VERSIONS[config.version];
  if (llmType === right) return;
  throw expected(`"${right}"`, `--llm_type of ${title}`, llmType, {
    flag: '--llm_type',
    file: config.file,
    cure: `Give --llm_type ${right}, or leave the flag out: it follows from config.json.`,
  });
}

function versionOf(json: unknown, file: string): VersionName {
  const raw = checkMarks(json, file);
  const marks = {
    architecture: raw.architectures?.[0],
    version: raw.version ?? null,
    hasVisionConfig: raw.vision_config != null,
    hasVisionEncoder: raw.vision_encoder != null,
  };
  const version = recogniseVersion(marks);
  if (version !== undefined) return version;
  const known = Object.values(VERSIONS).map((v) => `${v.title} (${v.architecture}, version ${v.version ?? 'absent'})`);
  throw new UserError(
    `Expected one of ${known.join(', ')} for the model but received ${marks.architecture === undefined ? 'no architecture' : shown(marks.architecture)}, version ` +
      `${marks.version ?? 'absent'}, ${marks.hasVisionConfig ? 'with' : 'without'} vision_config, ` +
      `${marks.hasVisionEncoder ? 'with' : 'without'} vision_encoder.`,
    { file, cure: 'Use one of these models, with the config.json it was published with.' },
  );
}
