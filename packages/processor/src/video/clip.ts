/**
 * What a video is, before it is decoded. Its size, its frames and their rate: a file is asked with ffprobe; a folder of
 * pictures, or a list of them, is a video of frames that were taken already.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { extname, join } from 'node:path';
import { beginsAsPicture, fileKindOf, pathCure, shown, shownPath, UserError } from '@minicpm-finetune/run';
import { checkPixels } from '../image/decode.js';
import { measureHeader } from '../image/header.js';
import { probe, tooLong, type VideoLimits } from './ffmpeg.js';
import type { Clip } from './sampling.js';
import type { VideoSource } from './source.js';

/** A video that can be sampled. */
export interface OpenClip extends Clip {
  readonly source: VideoSource;
  readonly width: number;
  readonly height: number;
  /** The files of its frames; null: they are in one file. */
  readonly files: readonly string[] | null;
}

export interface ClipOptions {
  /** Most pixels of a frame. */
  readonly maxImagePixels: number;
  /** Frames per second of frames that come as pictures. */
  readonly fps: number;
  /** Of a video that a stranger sent: how far it is read. */
  readonly limits?: VideoLimits | undefined;
}

const CURE = 'Replace the file, or remove the record.';
const PICTURES = ['.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff'];

/**
 * Opens a video.
 * @throws UserError when it is missing, no video, cut off, or its frames are too large
 */
export async function openClip(source: VideoSource, options: ClipOptions): Promise<OpenClip> {
  if (typeof source !== 'string') return await openFrames(source, source, options);
  const stat = statSync(source, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new UserError(`Expected a video in ${shownPath(source)} but there is no such file.`, {
      cure: pathCure(source, 'Correct the path; a relative one counts from the data file.'),
    });
  }
  return stat.isDirectory() ? await openFrames(source, framesIn(source), options) : await openFile(source, options);
}

/** The files of a video: its own, or those of its frames. */
export function videoFiles(source: VideoSource): readonly string[] {
  if (typeof source !== 'string') return source;
  return statSync(source, { throwIfNoEntry: false })?.isDirectory() ? framesIn(source) : [source];
}

/** The pictures of a folder in the order of their names, numbers by their value. */
function framesIn(folder: string): string[] {
  const names = readdirSync(folder).filter((name) => PICTURES.includes(extname(name).toLowerCase()));
  const order = new Intl.Collator('en', { numeric: true });
  return names.sort(order.compare).map((name) => join(folder, name));
}

async function openFrames(source: VideoSource, files: readonly string[], options: ClipOptions): Promise<OpenClip> {
  if (files.length === 0) {
    throw new UserError(`Expected the frames of a video in ${describeVideo(source)} but received no picture.`, {
      cure: 'Put its frames there as pictures whose names are in their order, or give the path of a video file.',
    });
  }
  const { maxImagePixels, fps } = options;
  const size = await measureHeader(files[0]!, { maxImagePixels });
  for (const file of files.slice(1)) {
    const other = await measureHeader(file, { maxImagePixels });
    if (other.width === size.width && other.height === size.height) continue;
    throw new UserError(
      `Expected frames of one size, ${size.width}x${size.height} as the first one, in ${describeVideo(source)} but received ${other.width}x${other.height} in ${shownPath(file)}.`,
      { cure: 'Give all frames of a video the same size, or show them as pictures.' },
    );
  }
  return { source, width: size.width, height: size.height, frames: files.length, fps, files };
}

/** `the folder a/b`, or `the list of frames that begins with a/0.jpg`. */
export function describeVideo(source: VideoSource): string {
  return typeof source === 'string'
    ? shownPath(source)
    : `the list of frames that begins with ${shownPath(source[0]!)}`;
}

interface Probed {
  streams?: {
    width?: number;
    height?: number;
    avg_frame_rate?: string;
    r_frame_rate?: string;
    nb_frames?: string;
    disposition?: { attached_pic?: number };
    side_data_list?: { rotation?: number }[];
  }[];
  packets?: { flags?: string }[];
}

async function openFile(path: string, { maxImagePixels, limits }: ClipOptions): Promise<OpenClip> {
  const { json, complaint, failed } = await probe(path, limits, maxImagePixels);
  const { streams = [], packets = [] } = (failed || json === '' ? {} : JSON.parse(json)) as Probed;
  const stream = streams[0];
  if (failed || (stream === undefined && complaint !== undefined)) throw notAVideo(path, complaint);
  if (stream === undefined || stream.disposition?.attached_pic === 1) {
    throw new UserError(`Expected a video in ${shownPath(path)} but received a file without moving pictures.`, {
      cure: 'Replace the file, or remove the record. It may hold sound alone.',
    });
  }
  if (packets.length === 1 && beginsAsPicture(readFileSync(path))) {
    throw new UserError(`Expected a video in ${shownPath(path)} but received a picture.`, {
      cure: 'Show it as a picture: write <image> and its path under the key image.',
    });
  }
  const frames = packets.filter(({ flags }) => !flags?.includes('D')).length;
  const whole = Number(stream.nb_frames ?? packets.length);
  if (packets.length < whole || /prematurely|partial file|truncat/iu.test(complaint ?? '')) {
    const after = packets.length < whole ? `${packets.length} of its ${whole} frames` : `frame ${packets.length}`;
    throw new UserError(
      `Expected a whole video in ${shownPath(path)} but received one that is cut off after ${after}.`,
      {
        cure: 'Replace the file, or remove the record. Perhaps its download or copy stopped early.',
      },
    );
  }
  if (limits !== undefined && frames > limits.maxFrames) throw tooLong(path, limits);
  const { width = 0, height = 0 } = stream;
  const fps = rate(stream.avg_frame_rate) ?? rate(stream.r_frame_rate);
  if (limits !== undefined && (width < 1 || height < 1)) {
    throw new UserError(
      `Expected a video with frames of at most ${maxImagePixels} pixels in ${shownPath(path)} but received larger ones, or none.`,
      { cure: CURE },
    );
  }
  if (frames === 0 || fps === undefined || width < 1 || height < 1) {
    const what = `frames: ${frames}, size: ${width}x${height}, frames per second: ${shown(stream.avg_frame_rate ?? null)}`;
    throw new UserError(`Expected a video with frames in ${shownPath(path)} but received ${what}.`, { cure: CURE });
  }
  // ffmpeg turns frames upright, as phones write them
  const turned = (stream.side_data_list ?? []).some(({ rotation = 0 }) => Math.abs(rotation) % 180 === 90);
  const size = turned ? { width: height, height: width } : { width, height };
  checkPixels(path, maxImagePixels, size);
  return { source: path, ...size, frames, fps, files: null };
}

/** The value of `30000/1001`; undefined for `0/0`. */
function rate(text: string | undefined): number | undefined {
  const [over, under = '1'] = (text ?? '').split('/');
  const value = Number(over) / Number(under);
  return Number.isFinite(value) && value > 0 ? value : undefined;
}

/** The error for a file that ffprobe cannot read: what it is by its first bytes, or what ffprobe says. */
function notAVideo(path: string, complaint: string | undefined): UserError {
  const kind = fileKindOf(path);
  const what = kind === undefined || kind.group === 'media' ? 'one that is damaged or cut off' : kind.what;
  const said = complaint === undefined ? '' : ` (ffprobe: ${complaint})`;
  return new UserError(`Expected a video in ${shownPath(path)} but received ${what}${said}.`, { cure: CURE });
}
