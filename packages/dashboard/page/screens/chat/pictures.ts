/** Pictures and videos as data URLs. From files, the clipboard and drops. */
import type { Picture } from './content.js';

/** Pictures of one question, and bytes of each: what the server takes. */
export const MOST_PICTURES = 20;
export const LARGEST = 10_000_000;
/** Of a video: with its question it fits into a request, which has at most 32 MiB. */
export const LARGEST_VIDEO = 22_000_000;
export const PICTURE_TYPES = ['image/png', 'image/jpeg', 'image/webp', 'image/gif', 'image/bmp'] as const;
export const VIDEO_TYPES = [
  'video/mp4',
  'video/quicktime',
  'video/webm',
  'video/x-matroska',
  'video/x-msvideo',
  'video/mpeg',
  'video/ogg',
] as const;

const isVideo = (type: string): boolean => (VIDEO_TYPES as readonly string[]).includes(type);

export interface ReadPictures {
  readonly pictures: readonly Picture[];
  /** Names of files that are refused, by reason. */
  readonly refused: readonly {
    readonly name: string;
    readonly why: 'type' | 'size' | 'videoSize' | 'videos' | 'count';
  }[];
}

/** Whether a file can be one of a question that has so many already; `videos`: of models that read videos. */
export function refusalOf(
  { type, size }: Pick<File, 'type' | 'size'>,
  had: number,
  videos: boolean,
): ReadPictures['refused'][number]['why'] | null {
  const video = isVideo(type);
  if (!video && !(PICTURE_TYPES as readonly string[]).includes(type)) return 'type';
  if (video && !videos) return 'videos';
  if (size > (video ? LARGEST_VIDEO : LARGEST)) return video ? 'videoSize' : 'size';
  return had >= MOST_PICTURES ? 'count' : null;
}

/** Reads files. `had`: pictures and videos that the question has already; `videos`: whether videos may be among them. */
export async function readPictures(files: readonly File[], had: number, videos: boolean): Promise<ReadPictures> {
  const pictures: Picture[] = [];
  const refused: ReadPictures['refused'][number][] = [];
  for (const file of files) {
    const why = refusalOf(file, had + pictures.length, videos);
    if (why === null) pictures.push(await pictureOf(file, file.name || 'picture.png'));
    else refused.push({ name: file.name, why });
  }
  return { pictures, refused };
}

/** A picture or a video from its bytes. */
export async function pictureOf(blob: Blob, name: string): Promise<Picture> {
  const kind = isVideo(blob.type) ? 'video' : 'image';
  return {
    kind,
    name,
    url: await dataUrl(blob),
    shown: kind === 'image' ? URL.createObjectURL(blob) : '',
    bytes: blob.size,
  };
}

/** A blob as `data:…;base64,…`. */
function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error ?? new Error('The file cannot be read.'));
    reader.readAsDataURL(blob);
  });
}
