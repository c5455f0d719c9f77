/** First bytes of files, and what the files are. As text of one character a byte. Formats that hold several others are in kind.ts. */
export interface FileKind {
  /** With its article, for "but received …". */
  readonly what: string;
  /** Picture: a picture in a format that is not read. */
  readonly group: 'download' | 'picture' | 'document' | 'media' | 'archive' | 'weights' | 'data' | 'text' | 'empty';
  /** What to do about it, where that does not depend on what was expected. */
  readonly cure?: string;
}

export const video = (name: string): FileKind => ({ what: `a video (${name})`, group: 'media' });
const picture = (name: string): FileKind => ({
  what: `a ${name} picture`,
  group: 'picture',
  cure: 'It is not read: convert it to PNG.',
});

const archive = (name: string, command: string): FileKind => ({
  what: `a ${name} file`,
  group: 'archive',
  cure: `Unpack it first (${command}).`,
});

const PICKLE: FileKind = {
  what: 'a Python pickle, which can run code when it is opened',
  group: 'weights',
  cure: 'Convert it with save_pretrained(…, safe_serialization=True) of transformers.',
};

/** Bytes at the start of a file, or at another place. */
const STARTS: readonly (readonly [bytes: string, kind: FileKind, at?: number])[] = [
  [
    '%PDF-',
    {
      what: 'a PDF document',
      group: 'document',
      cure: 'Convert its pages to PNG pictures, for instance with pdftoppm -png.',
    },
  ],
  ['%!PS', { what: 'a PostScript document', group: 'document', cure: 'Convert it to PNG.' }],
  [
    '\xd0\xcf\x11\xe0',
    { what: 'an old Microsoft Office document', group: 'document', cure: 'Export its pictures as PNG.' },
  ],
  ['\0\0\0\x0cjP  ', picture('JPEG 2000')],
  ['\xff\x4f\xff\x51', picture('JPEG 2000')],
  ['\xff\x0a', picture('JPEG XL')],
  ['\0\0\0\x0cJXL ', picture('JPEG XL')],
  ['icns', picture('ICNS (icon)')],
  ['8BPS', picture('Photoshop (PSD)')],
  ['gimp xcf', picture('GIMP (XCF)')],
  ['#?RADIANCE', picture('Radiance HDR')],
  ['#?RGBE', picture('Radiance HDR')],
  ['\x76\x2f\x31\x01', picture('OpenEXR')],
  ['DDS ', picture('DDS')],
  ['qoif', picture('QOI')],
  ['II\xbc\x01', picture('JPEG XR')],
  ['SIMPLE  =', picture('FITS')],
  ['DICM', picture('DICOM'), 128],
  ['FLV\x01', video('FLV')],
  ['\0\0\x01\xba', video('MPEG')],
  ['\0\0\x01\xb3', video('MPEG')],
  ['0&\xb2\x75\x8e\x66\xcf', video('WMV')],
  ['OggS', { what: 'audio or video (Ogg)', group: 'media' }],
  ['ID3', { what: 'audio (MP3)', group: 'media' }],
  ['\xff\xfb', { what: 'audio (MP3)', group: 'media' }],
  ['fLaC', { what: 'audio (FLAC)', group: 'media' }],
  ['PK\x03\x04', archive('zip', 'unzip')],
  ['PK\x05\x06', archive('zip', 'unzip')],
  ['\x1f\x8b', archive('gzip', 'gunzip')],
  ['\x28\xb5\x2f\xfd', archive('Zstandard', 'unzstd')],
  ['\xfd7zXZ', archive('xz', 'unxz')],
  ['BZh', archive('bzip2', 'bunzip2')],
  ['7z\xbc\xaf', archive('7-Zip', '7z x')],
  ['Rar!', archive('RAR', 'unrar x')],
  ['\x04\x22\x4d\x18', archive('LZ4', 'unlz4')],
  ['ustar', archive('tar', 'tar -xf'), 257],
  ['PAR1', { what: 'a parquet file', group: 'data' }],
  [
    'ARROW1',
    {
      what: 'an Arrow file',
      group: 'data',
      cure: 'Write it as parquet or JSON, with to_parquet or to_json of datasets.',
    },
  ],
  ['SQLite format 3', { what: 'an SQLite database', group: 'data' }],
  ['\x89HDF\r\n', { what: 'an HDF5 file', group: 'data' }],
  ['\x93NUMPY', { what: 'a NumPy array', group: 'data' }],
  ['Obj\x01', { what: 'an Avro file', group: 'data' }],
  [
    'GGUF',
    {
      what: 'a GGUF file of llama.cpp',
      group: 'weights',
      cure: 'Give the folder of the checkpoint in safetensors that it was made from.',
    },
  ],
  ['\0\0{"', { what: 'a safetensors file', group: 'weights' }, 6],
  ['\x7fELF', { what: 'a program', group: 'data' }],
  ['MZ\x90', { what: 'a program', group: 'data' }],
];

/** The kind of a file by its first bytes. */
export function signature(head: Buffer): FileKind | undefined {
  const text = head.toString('latin1', 0, 512);
  const found = STARTS.find(([bytes, , at = 0]) => text.startsWith(bytes, at))?.[1];
  if (text.startsWith('PK') && text.includes('data.pkl')) return PICKLE;
  return found ?? byFields(head, text);
}

/** Formats whose first bytes are not the same in all files. */
function byFields(head: Buffer, text: string): FileKind | undefined {
  if (/^P[1-7]\s/.test(text)) return picture('PPM (Netpbm)');
  if (/^P[Ff]\s/.test(text)) return picture('PFM (Netpbm)');
  const [a, b, c, d] = [head[0] ?? 0, head[1] ?? 0, head[2] ?? 0, head[3] ?? 0];
  if (a === 0x80 && b >= 2 && b <= 5) return PICKLE;
  if (a === 0 && b === 0 && (c === 1 || c === 2) && d === 0 && head.length > 6 && head[4]! > 0 && head[5] === 0)
    return picture(c === 1 ? 'ICO (icon)' : 'CUR (cursor)');
  if (a === 0x0a && b <= 5 && c <= 1 && [1, 2, 4, 8].includes(d)) return picture('PCX');
  return isTga(head) ? picture('TGA') : undefined;
}

/** A TGA file has no first bytes of its own: all fields of its header have to be in their limits. */
function isTga(head: Buffer): boolean {
  if (head.length < 18) return false;
  const [map, type, depth] = [head[1]!, head[2]!, head[16]!];
  if (map > 1 || ![1, 2, 3, 9, 10, 11].includes(type) || ![8, 15, 16, 24, 32].includes(depth)) return false;
  const colours = [0, 15, 16, 24, 32].includes(head[7]!) && (map === 1) === head[7]! > 0;
  return colours && head.readUInt16LE(12) > 0 && head.readUInt16LE(14) > 0 && (head[17]! & 0xc0) === 0;
}
