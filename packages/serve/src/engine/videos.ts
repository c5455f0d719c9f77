/**
 * Videos of requests as files, for their programs. Strangers send them: the programs open no other file and no
 * address, are killed after a time, and only a few run at once. The files go with the request.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { VideoLimits } from '@minicpm-finetune/processor';
import { ApiError, invalid } from '../api/error.js';
import type { VideoReference } from '../api/messages.js';
import { videoBytes } from '../api/pictures.js';

/** Frames of a video, seen or not: twenty minutes of 30 a second. */
const MOST_FRAMES = 36_000;
/** Requests whose videos are read at the same time. */
const AT_ONCE = 2;

/** Paths of videos, and how far they are read. */
export interface OpenVideos {
  pathOf(video: VideoReference): string;
  /** undefined: there is no video. */
  readonly limits: VideoLimits | undefined;
}

export class VideoReader {
  readonly #seconds: number;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  /** @param seconds that the videos of a request may take */
  constructor(seconds: number) {
    this.#seconds = seconds;
  }

  /**
   * Does work that reads videos.
   *
   * @param signal aborted when the client goes away
   * @throws ApiError naming the part of a video that cannot be read, or takes too long
   */
  async with<T>(
    videos: readonly VideoReference[],
    signal: AbortSignal,
    work: (open: OpenVideos) => Promise<T>,
  ): Promise<T> {
    const [first] = videos;
    if (first === undefined) return await work({ pathOf: () => '', limits: undefined });
    const bytes = videos.map((video) => videoBytes(video));
    await this.#turn();
    const timeout = AbortSignal.timeout(Math.ceil(this.#seconds * 1000));
    const limits = { signal: AbortSignal.any([signal, timeout]), maxFrames: MOST_FRAMES };
    const names = new Map<VideoReference, string>();
    let folder: string | undefined;
    try {
      folder = mkdtempSync(join(tmpdir(), 'minicpm-video-')); // of this user alone
      for (const [i, video] of videos.entries()) {
        names.set(video, join(folder, String(i)));
        writeFileSync(names.get(video)!, bytes[i]!, { mode: 0o600 });
      }
      return await work({ pathOf: (video) => names.get(video)!, limits });
    } catch (error) {
      if (signal.aborted) throw new ApiError(400, 'The client went away.', { cause: error });
      if (timeout.aborted) {
        const message = `Expected videos that are read within ${this.#seconds} seconds but those of this request take longer. Send shorter or smaller ones.`;
        throw invalid(message, first.place, 'invalid_video');
      }
      throw withoutPaths(error, names);
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
    }
  }

  async #turn(): Promise<void> {
    while (this.#running >= AT_ONCE) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running++;
  }
}

/** A mistake in words for the client, whose videos have no paths. */
function withoutPaths(error: unknown, names: ReadonlyMap<VideoReference, string>): unknown {
  if (!(error instanceof ApiError)) return error;
  let { message } = error;
  for (const [{ place }, path] of names) message = message.replaceAll(path, place);
  const { status, param, code, cause } = error;
  return new ApiError(status, message, {
    ...(param === null ? {} : { param }),
    ...(code === null ? {} : { code }),
    cause,
  });
}
