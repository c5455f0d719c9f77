/**
 * The programs that read videos. They are the system's ffmpeg and ffprobe. Nothing is fetched; where they are missing,
 * the error names them.
 */
import { type ChildProcessByStdio, execFile, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { shownPath, UserError } from '@minicpm-finetune/run';

const INSTALL =
  'Install ffmpeg and have it in PATH (Debian and Ubuntu: apt-get install ffmpeg; macOS: brew install ffmpeg), or give the video as a folder of frames.';

/** How far a video of a stranger is read. */
export interface VideoLimits {
  /** Aborted: the programs are killed. */
  readonly signal: AbortSignal;
  /** Most frames that it may have in all. */
  readonly maxFrames: number;
}

/** What ffprobe says of a file. */
export interface ProbeOutput {
  readonly json: string;
  /** Its complaints, the first one a line. */
  readonly complaint: string | undefined;
  readonly failed: boolean;
}

/** Most bytes that ffprobe says of a file: the packets of about ten hours. */
const MOST_OUTPUT = 256 * 1024 * 1024;

/** More than ffprobe says of a frame. */
const BYTES_OF_A_FRAME = 256;

/** Asks ffprobe about a file. @throws UserError where there is no ffprobe */
export async function probe(path: string, limits?: VideoLimits, maxImagePixels?: number): Promise<ProbeOutput> {
  const shows =
    'stream=width,height,avg_frame_rate,r_frame_rate,nb_frames:stream_side_data=rotation:stream_disposition=attached_pic:packet=flags';
  const words = [
    '-v',
    'error',
    '-select_streams',
    'v:0',
    '-show_entries',
    shows,
    '-of',
    'json',
    ...inputOf(path, limits, maxImagePixels),
  ];
  const maxBuffer = limits === undefined ? MOST_OUTPUT : limits.maxFrames * BYTES_OF_A_FRAME;
  const options = { maxBuffer, ...(limits && { signal: limits.signal, killSignal: 'SIGKILL' as const }) };
  return await new Promise((resolve, reject) => {
    execFile('ffprobe', words, options, (error, stdout, stderr) => {
      if (error && isMissing(error)) reject(missing('ffprobe', path));
      else if (error && limits?.signal.aborted) reject(limits.signal.reason);
      else if (error?.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER' && limits) reject(tooLong(path, limits));
      else if (error?.code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') reject(error);
      else resolve({ json: stdout, complaint: firstComplaint(stderr, path), failed: error !== null });
    });
  });
}

/** A running ffmpeg. */
export interface Decoding {
  readonly bytes: AsyncIterable<Buffer>;
  /** Settles when it has ended: its exit code and its first complaint. */
  readonly ended: Promise<{ code: number | null; complaint: string | undefined }>;
  stop(): void;
}

/** Starts ffmpeg on frames of a file, which come as RGB bytes one after the other. @throws UserError where there is no ffmpeg */
export function decode(
  path: string,
  indices: readonly number[],
  limits?: VideoLimits,
  maxImagePixels?: number,
): Decoding {
  const words = [
    ...[
      '-v',
      'error',
      '-nostdin',
      '-xerror',
      '-threads',
      '1',
      ...inputOf(path, limits, maxImagePixels),
      '-map',
      '0:v:0',
    ],
    // every chosen frame gets a time of its own, so that none is dropped or doubled for the sake of an even rate
    ...['-vf', `select=${oneOf(indices)},settb=1/25,setpts=N`, '-r', '25', '-frames:v', String(indices.length)],
    ...['-f', 'rawvideo', '-pix_fmt', 'rgb24', 'pipe:1'],
  ];
  const child: ChildProcessByStdio<null, Readable, Readable> = spawn('ffmpeg', words, {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(limits && { signal: limits.signal, killSignal: 'SIGKILL' as const }),
  });
  let complaints = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (complaints.length < MOST_COMPLAINTS) complaints += text;
  });
  const ended = new Promise<{ code: number | null; complaint: string | undefined }>((resolve, reject) => {
    child.on('error', (error) => {
      if (isMissing(error)) reject(missing('ffmpeg', path));
      else reject(limits?.signal.aborted ? limits.signal.reason : error);
    });
    child.on('close', (code) => resolve({ code, complaint: firstComplaint(complaints, path) }));
  });
  ended.catch(() => {}); // whoever reads the bytes to their end awaits it
  return { bytes: child.stdout, ended, stop: () => child.kill('SIGKILL') };
}

/** An expression that is true for the frames of these numbers. In parentheses: ffmpeg's parser takes no more than 100 terms in a row. */
function oneOf(indices: readonly number[]): string {
  if (indices.length === 1) return `eq(n\\,${indices[0]})`;
  const half = indices.length >> 1;
  return `(${oneOf(indices.slice(0, half))}+${oneOf(indices.slice(half))})`;
}

const MOST_COMPLAINTS = 10_000;

/** Containers of which none opens other files, as playlists do: their contents would be shown to whoever sent them. */
const CONTAINERS = 'mov,matroska,avi,mpegts,mpeg,flv,ogg,gif';
/** What cameras, phones and browsers write; sound is not decoded, but looked at. */
const CODECS = [
  'h264,hevc,vp8,vp9,av1,libdav1d,libaom-av1,mpeg1video,mpeg2video,mpeg4,mjpeg,gif,theora,flv',
  'aac,mp3,mp3float,mp2,mp2float,ac3,eac3,opus,vorbis,flac,pcm_s16le',
].join(',');
/** Most bytes of one piece of memory of ffmpeg's. */
const MOST_ALLOCATED = 512 * 2 ** 20;

/** A path as input: never an address, an option or a pattern. */
function inputOf(path: string, limits?: VideoLimits, maxImagePixels?: number): string[] {
  const confined =
    limits === undefined
      ? []
      : [
          ...['-max_alloc', String(MOST_ALLOCATED), '-format_whitelist', CONTAINERS, '-codec_whitelist', CODECS],
          ...(maxImagePixels === undefined ? [] : ['-max_pixels', String(maxImagePixels)]),
        ];
  return [...confined, '-protocol_whitelist', 'file,pipe', '-i', `file:${path}`];
}

/** @returns the refusal of a video with too many frames */
export const tooLong = (path: string, { maxFrames }: VideoLimits): UserError =>
  new UserError(`Expected a video of at most ${maxFrames} frames in ${shownPath(path)} but it has more.`, {
    cure: 'Give a shorter part of it, or one with fewer frames per second.',
  });

const isMissing = (error: Error): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';

function missing(program: string, path: string): UserError {
  return new UserError(
    `Expected the program ${program} to read the video ${shownPath(path)} but there is none in PATH.`,
    {
      cure: INSTALL,
    },
  );
}

/** The first line that says something, without addresses of memory and the name of the file. */
function firstComplaint(stderr: string, path: string): string | undefined {
  const lines = stderr.split('\n').map((line) =>
    line
      .replaceAll(`file:${path}: `, '')
      .replaceAll(/ @ 0x[0-9a-f]+\]/gu, ']')
      .trim(),
  );
  return lines.find((line) => line !== '')?.slice(0, 200);
}
