/**
 * Pictures written as text: `data:` addresses and bare base64. What the bytes are decides, not what the address says
 * they are. Text that is neither is a path.
 */
import { beginsAsPicture, shown, UserError, unseenName } from '@minicpm-finetune/run';

const CURE = 'Write the whole picture as data:image/png;base64,… or write it to a file and give its path.';

/** The bytes of a picture written as text; undefined: the text is a path. Throws UserError for an address without data, and for what is not base64. */
export function pictureFromText(text: string): Uint8Array | undefined {
  if (/^\s*data:/i.test(text)) return fromDataUrl(text.trimStart());
  return beginsAsBase64(text) ? fromBase64(text, 'the base64 of a picture') : undefined;
}

/** How base64 begins of JPEG, PNG, GIF, WebP, BMP, TIFF; of AVIF after 4 bytes of length. Long enough to be no path. */
function beginsAsBase64(text: string): boolean {
  const head = text.slice(0, 64).trimStart();
  if (text.length < 60 || !/^[A-Za-z0-9+/_-]{32}/.test(head)) return false;
  return beginsAsPicture(Buffer.from(head.slice(0, 32), 'base64'));
}

/** `data:[type][;parameter…][;base64],data` (RFC 2397). */
function fromDataUrl(text: string): Uint8Array {
  const comma = text.indexOf(',');
  const head = comma === -1 ? text : text.slice(0, comma);
  const data = comma === -1 ? '' : text.slice(comma + 1);
  if (data.trim() === '') {
    const found = comma === -1 ? `${shown(text)}, which has no comma` : `${shown(text)}, which has no data`;
    throw new UserError(`Expected a data: address with data for a picture but received ${found}.`, { cure: CURE });
  }
  if (/;\s*base64\s*$/i.test(head))
    return fromBase64(percentDecoded(data), `the data of ${shown(`${head.slice(0, 60)},`)}`);
  return new Uint8Array(Buffer.from(percentDecoded(data), 'latin1'));
}

/** Each `%41` as its byte. */
function percentDecoded(text: string): string {
  return text.includes('%')
    ? text.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
    : text;
}

/** Bytes of base64, also in the alphabet of addresses, with white space and without padding. */
function fromBase64(text: string, what: string): Uint8Array {
  const wrong = text.search(/[^A-Za-z0-9+/_\-\s=]/);
  const padding = /=(?![=\s]*$)/.exec(text)?.index ?? -1;
  const offset = wrong === -1 || (padding !== -1 && padding < wrong) ? padding : wrong;
  if (offset !== -1) {
    const character = String.fromCodePoint(text.codePointAt(offset)!);
    const name = unseenName(character);
    throw new UserError(
      `Expected base64 for ${what} but received ${shown(character)}${name === undefined ? '' : `, ${name}`} as character ${offset + 1}.`,
      { cure: CURE },
    );
  }
  const bytes = new Uint8Array(Buffer.from(text, 'base64'));
  if (bytes.length === 0) throw new UserError(`Expected base64 for ${what} but received none.`, { cure: CURE });
  const digits = text.replace(/[\s=]+/g, '').length;
  if (digits % 4 === 1)
    throw new UserError(`Expected whole base64 for ${what} but received ${digits} digits, which are cut off.`, {
      cure: CURE,
    });
  return bytes;
}
