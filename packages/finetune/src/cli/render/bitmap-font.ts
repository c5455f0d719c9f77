/**
 * Letters of 5 by 7 pixels. For labels on a machine without fonts, and the same on every machine; two more rows are below
 * the line. A glyph is its rows from the top, two hexadecimal digits each, the left pixel in the highest of five bits.
 */

export const GLYPH = { width: 5, height: 9 } as const;

/** From `!` to `~`. */
// biome-ignore format: five letters on a line
const ROWS = [
  '04040404040004', '0a0a0a', '0a0a1f0a1f0a0a', '040f140e051e04', '18190204081303', // ! " # $ %
  '0c12140815120d', '040408', '02040808080402', '08040202020408', '0004150e1504', // & ' ( ) *
  '0004041f0404', '00000000000c0408', '0000001f', '00000000000c0c', '01010204081010', // + , - . /
  '0e11131519110e', '040c040404040e', '0e11010204081f', '1f02040201110e', '02060a121f0202', // 0 1 2 3 4
  '1f101e0101110e', '0608101e11110e', '1f010204080808', '0e11110e11110e', '0e11110f01020c', // 5 6 7 8 9
  '000c0c000c0c', '000c0c000c0408', '02040810080402', '00001f001f', '08040201020408', // : ; < = >
  '0e110102040004', '0e11171517100e', '0e11111f111111', '1e11111e11111e', '0e11101010110e', // ? @ A B C
  '1e11111111111e', '1f10101e10101f', '1f10101e101010', '0e11101711110f', '1111111f111111', // D E F G H
  '0e04040404040e', '0702020202120c', '11121418141211', '1010101010101f', '111b1515111111', // I J K L M
  '11191513111111', '0e11111111110e', '1e11111e101010', '0e11111115120d', '1e11111e141211', // N O P Q R
  '0f10100e01011e', '1f040404040404', '1111111111110e', '11111111110a04', '11111115151b11', // S T U V W
  '11110a040a1111', '11110a04040404', '1f01020408101f', '0e08080808080e', '10100804020101', // X Y Z [ \
  '0e02020202020e', '040a11', '000000000000001f', '0804', '00000e010f110f', // ] ^ _ ` a
  '10101e1111111e', '00000e1110110e', '01010f1111110f', '00000e111f100e', '0608081e080808', // b c d e f
  '00000f1111110f010e', '10101619111111', '04000c0404040e', '02000602020202120c', '10101214181412', // g h i j k
  '0c04040404040e', '00001a15151515', '00001619111111', '00000e1111110e', '00001e1111111e1010', // l m n o p
  '00000f1111110f0101', '00001619101010', '00000f100e011e', '08081e08080906', '0000111111130d', // q r s t u
  '00001111110a04', '0000111115150a', '0000110a040a11', '0000111111110f010e', '00001f0204081f', // v w x y z
  '06080810080806', '04040404040404', '0c02020102020c', '0000081502', // { | } ~
];
const FIRST = '!'.charCodeAt(0);

/** Whether a character has a glyph here: printable ASCII. */
export const hasGlyph = (character: string): boolean => character >= ' ' && character <= '~';

/** The rows of a character from the top, five bits each; missing rows are empty. */
export function glyphRows(character: string): number[] {
  const text = ROWS[character.charCodeAt(0) - FIRST] ?? '';
  return Array.from({ length: GLYPH.height }, (_, row) => Number.parseInt(text.slice(2 * row, 2 * row + 2) || '0', 16));
}
