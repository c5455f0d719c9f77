/** Pictures from files, the clipboard and drops, as data URLs. */
import type { Picture } from './content.js';

/** Pictures of one question, and bytes of each: what the server takes. */
export const MOST_PICTURES = 20;
export const LARGEST = 10_000_000;
export const PICTURE_TYPES = ['image/png', 'image/jpeg', 'image/webp', 'image/gif', 'image/bmp'] as const;

export interface ReadPictures {
  readonly pictures: readonly Picture[];
  /** Names of files that are refused, by reason. */
  readonly refused: readonly { readonly name: string; readonly why: 'type' | 'size' | 'count' }[];
}

/** Whether a file can be one of a question that has so many already. */
export function refusalOf(
  { type, size }: Pick<File, 'type' | 'size'>,
  had: number,
): ReadPictures['refused'][number]['why'] | null {
  if (!(PICTURE_TYPES as readonly string[]).includes(type)) return 'type';
  if (size > LARGEST) return 'size';
  return had >= MOST_PICTURES ? 'count' : null;
}

/** Reads files. `had`: pictures that the question has already. */
export async function readPictures(files: readonly File[], had: number): Promise<ReadPictures> {
  const pictures: Picture[] = [];
  const refused: ReadPictures['refused'][number][] = [];
  for (const file of files) {
    const why = refusalOf(file, had + pictures.length);
    if (why === null) pictures.push(await pictureOf(file, file.name || 'picture.png'));
    else refused.push({ name: file.name, why });
  }
  return { pictures, refused };
}

/** A picture from its bytes. */
export async function pictureOf(blob: Blob, name: string): Promise<Picture> {
  return { name, url: await dataUrl(blob), shown: URL.createObjectURL(blob) };
}

/** A blob as `data:image/…;base64,…`. */
function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error ?? new Error('The file cannot be read.'));
    reader.readAsDataURL(blob);
  });
}
