/**
 * Turned, resized and shifted pictures of digits. As another hand could have written them: more training data from the
 * same digits.
 *
 * A digit stays the same digit, as another hand could have written it: more training data from the same digits. Which n gives which
 * picture is fixed, so that every run has the same data.
 */

/** A square picture: levels from 0 to 1, row by row. */
export type Levels = ArrayLike<number>;

const MOST_DEGREES = 12;
const MOST_RESIZE = 0.1;
const MOST_SHIFT = 2;

/** Four numbers from -1 to 1 for each n, evenly spread: the fractions of its multiples of irrational numbers. */
function spread(n: number): [number, number, number, number] {
  const at = (step: number): number => 2 * ((n * step) % 1) - 1;
  return [at(Math.SQRT2), at(Math.sqrt(3)), at(Math.sqrt(5)), at(Math.sqrt(7))];
}

/** The level between pixels, bilinear; 0 outside the picture. */
function levelAt(picture: Levels, side: number, x: number, y: number): number {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [right, below] = [x - left, y - top];
  const pixel = (col: number, row: number): number =>
    col < 0 || col >= side || row < 0 || row >= side ? 0 : picture[row * side + col]!;
  const upper = pixel(left, top) * (1 - right) + pixel(left + 1, top) * right;
  const lower = pixel(left, top + 1) * (1 - right) + pixel(left + 1, top + 1) * right;
  return upper * (1 - below) + lower * below;
}

/** Variant n of a picture of `side` x `side` levels: turned by at most 12 degrees, resized by at most a tenth, shifted by at most 2 pixels. */
export function variantOf(picture: Levels, side: number, n: number): Float64Array {
  const [turn, size, right, down] = spread(n);
  const angle = (turn * MOST_DEGREES * Math.PI) / 180;
  const scale = 1 + size * MOST_RESIZE;
  const [cos, sin] = [Math.cos(angle) / scale, Math.sin(angle) / scale];
  const centre = (side - 1) / 2;
  return Float64Array.from({ length: side * side }, (_, i) => {
    const x = (i % side) - centre - right * MOST_SHIFT;
    const y = Math.floor(i / side) - centre - down * MOST_SHIFT;
    return levelAt(picture, side, centre + cos * x + sin * y, centre - sin * x + cos * y);
  });
}
